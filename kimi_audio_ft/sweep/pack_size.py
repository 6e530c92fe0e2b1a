"""Pack size by measurement: a few steps with 1, 2, 4, ... adapters, thrown away again."""

from __future__ import annotations

import logging
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import TrainerConfig
from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.runtime import devices
from kimi_audio_ft.store.cache import remember
from kimi_audio_ft.sweep.plan import pack_key
from kimi_audio_ft.training.adapters import AdapterSpec, AdapterState
from kimi_audio_ft.training.fit import make_trainer, on_one_base, run_trainer
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.training.passes import Step
from kimi_audio_ft.trial import Trial

log = logging.getLogger(__name__)

# A larger pack must be faster than a smaller one by this factor; less is noise, and costs memory.
_PAYS = 1.05
# Steps that are timed, after the largest one of the epoch, which warms up and needs the most memory.
_TIMED = 3
# Part of the memory that a pack may need: training lasts longer than a probe.
_SAFE = 0.9
# Pack size where several processes train together, and none can try one for all of them.
_WITHOUT_PROBE = 8


def probed_pack_size(trials: Sequence[Trial], dispatch: str, ranks: int) -> int:
    """The pack size that trains these adapters fastest on this machine; 1 when packing does not pay.

    Measured once for every machine and kind of training; the store caches the result.
    """
    if ranks > 1:
        return min(_WITHOUT_PROBE, len(trials))
    first = trials[0]
    widest = max(trial.config.lora.r for trial in trials)
    facts = [device_name(first), pack_key(first.config, same_data=False), dispatch, widest, len(trials)]
    nowhere = Path()  # nothing is written
    specs = [
        AdapterSpec(
            trial.training_signature, trial.config.lora, trial.config.optim, trial.config.seed, nowhere, nowhere
        )
        for trial in trials
    ]

    def measure() -> dict[str, Any]:
        size, measured = find_pack_size(first.base, specs, first.data, first.config.trainer, dispatch)
        return {"pack_size": size, "measured": measured, "of": facts}

    size = int(remember("probes", facts, measure)["pack_size"])
    log.info("pack size %d, from a few steps of each", size)
    return size


def device_name(trial: Trial) -> str:
    """Name of the device that computes."""
    device = trial.base.device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.node()} CPU, {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Probe:
    """One measurement: positions per second of all adapters together (no padding), and bytes at the peak."""

    size: int
    tokens_per_second: float
    peak_bytes: int


def find_pack_size(
    base: Base,
    specs: Sequence[AdapterSpec],
    data: ConversationData | Mapping[str, ConversationData],
    settings: TrainerConfig,
    dispatch: str = "slice",
) -> tuple[int, dict[str, Any]]:
    """The number of these adapters that train fastest together; 1 when a pack does not pay.

    Each size takes the largest step of the first epoch, a few others and the largest batch of the evaluation set, in
    this process alone, whatever the strategy is. Nothing is written, and base and random numbers stay as they were.

    Returns:
        The size, and facts for a log: the measured ``sizes`` and why the search ended.
    """
    settings = replace(settings, strategy="single", progress=False)
    device = devices.device(settings.accelerator)

    def measure(size: int) -> Probe:
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                return _probe(base, specs[:size], data, settings, dispatch, device)
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()

    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return fastest_size(len(specs), measure, most_bytes=_SAFE * total)
    return fastest_size(len(specs), measure, free_bytes=_available)


def fastest_size(
    most: int,
    measure: Callable[[int], Probe],
    most_bytes: float = math.inf,
    free_bytes: Callable[[], float] = lambda: math.inf,
) -> tuple[int, dict[str, Any]]:
    """Measure sizes 1, 2, 4, ... up to ``most``, until a larger one does not pay or does not fit.

    Args:
        measure: may raise MemoryError or ``torch.OutOfMemoryError``.
        most_bytes: that a pack may need at its peak.
        free_bytes: memory that is free now; a size that is expected to need nearly all of it is not tried.

    Returns:
        As ``find_pack_size``.
    """
    probes, ended = list[Probe](), "all sizes were tried"
    for size in _sizes(most):
        if _growth(probes, size) >= _SAFE * free_bytes():
            ended = f"{size} adapters would not fit into memory"
            break
        try:
            probes.append(measure(size))
        except (torch.OutOfMemoryError, MemoryError):
            ended = f"{size} adapters did not fit into memory"
            break
        if probes[-1].peak_bytes > most_bytes:
            probes.pop()
            ended = f"{size} adapters need nearly all of the memory"
            break
        if len(probes) > 1 and probes[-1].tokens_per_second < _PAYS * probes[-2].tokens_per_second:
            ended = f"{size} adapters are not faster than {probes[-2].size}"
            break
    chosen = 1
    if probes:
        best = max(probes, key=lambda probe: probe.tokens_per_second)
        chosen = best.size if best.tokens_per_second >= _PAYS * probes[0].tokens_per_second else 1
    return chosen, {"sizes": [asdict(probe) for probe in probes], "ended": ended}


def _sizes(most: int) -> Iterator[int]:
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def _growth(probes: Sequence[Probe], size: int) -> float:
    """Bytes that a size is expected to need beyond the last one, from the difference of the last two."""
    if len(probes) < 2:
        return 0.0
    smaller, larger = probes[-2:]
    return max(0, larger.peak_bytes - smaller.peak_bytes) / (larger.size - smaller.size) * (size - larger.size)


class _Clock(pl.Callback):
    """Positions per second of every step but the first."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.rates = device, list[float]()
        self._since = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._since = self._now()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, AdapterTraining)
        self.rates.append(pl_module.step_tokens / (self._now() - self._since))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _probe(
    base: Base,
    specs: Sequence[AdapterSpec],
    data: ConversationData | Mapping[str, ConversationData],
    settings: TrainerConfig,
    dispatch: str,
    device: torch.device,
) -> Probe:
    own = {s.name: data if isinstance(data, ConversationData) else data[s.name] for s in specs}
    first = own[specs[0].name]
    for one in own.values():
        one.setup()
    steps: Any = list(_steps(own, shared=isinstance(data, ConversationData)))
    settings = replace(settings, max_epochs=1, max_steps=-1)
    with on_one_base(base, specs, dispatch) as (model, pack):
        states = [AdapterState(spec.optim, spec.seed, spec.name) for spec in specs]
        module, clock = AdapterTraining(model, states, len(steps), pack), _Clock(device)
        trainer = make_trainer(module, settings, 1, dict.fromkeys(own, Path()), [clock])
        _forget_peak(device)
        run_trainer(trainer, module, DataLoader(steps, batch_size=None, collate_fn=_as_it_is))
        module.validation_loss([first.largest_validation_batch()])
        return Probe(len(specs), statistics.median(clock.rates[1:] or clock.rates), _peak(device))


def _steps(own: Mapping[str, ConversationData], shared: bool) -> Iterator[Step]:
    """The largest step of the first epoch, then its first ones."""
    first = next(iter(own.values()))
    plan = first.plan.epoch(0)
    sizes = [sum(int(first.plan.lengths[draw.index]) for draw in plan.step(step)) for step in range(len(plan))]
    for step in [sizes.index(max(sizes)), *range(min(_TIMED, len(plan)))]:
        yield first.step(0, step) if shared else {name: data.step(0, step) for name, data in own.items()}


def _as_it_is(step: Step) -> Step:
    return step


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark begins anew


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _kilobytes(Path("/proc/self/status"), "VmHWM:") * 1024


def _available() -> float:
    """Bytes of memory that are free to use; unknown ones are without limit."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable:") * 1024 or math.inf


def _kilobytes(table: Path, name: str) -> int:
    """A value of one of Linux's tables; 0 on another system."""
    with suppress(OSError):
        for line in table.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
