"""Pack size by measurement: a few steps with 1, 2, 4, ... adapters, thrown away again."""

from __future__ import annotations

import logging
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import LambdaCallback
from torch.utils.data import DataLoader

from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.runtime.devices import gpu_freed, out_of_memory
from kimi_audio_ft.store.cache import remember
from kimi_audio_ft.sweep.plan import pack_key
from kimi_audio_ft.training.adapters import AdapterSpec, AdapterState
from kimi_audio_ft.training.filling import fill_passes, largest_step
from kimi_audio_ft.training.fit import make_trainer, on_one_base, run_trainer
from kimi_audio_ft.training.module import AdapterTraining
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

    Measured once for every machine and kind of training; the store caches the result. One CPU thread is as busy with
    one adapter as with several, so that nothing is measured.
    """
    if ranks > 1:
        return min(_WITHOUT_PROBE, len(trials))
    trials[0].base.about_to_compute()
    device, kind = trials[0].base.device, pack_key(trials[0].config, same_data=False)
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return 1
    machine = f"{platform.node()} CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    facts = [machine, kind, dispatch, max(trial.config.lora.r for trial in trials), len(trials)]

    def measure() -> dict[str, Any]:
        size, measured = find_pack_size(trials, dispatch)
        return {"pack_size": size, "measured": measured, "of": facts}

    size = int(remember("probes", facts, measure)["pack_size"])
    log.info("pack size %d, from a few steps of each", size)
    return size


@dataclass(frozen=True)
class Probe:
    """One measurement: positions per second of all adapters together (no padding), and bytes at the peak."""

    size: int
    tokens_per_second: float
    peak_bytes: int


@gpu_freed()
def find_pack_size(trials: Sequence[Trial], dispatch: str = "slice") -> tuple[int, dict[str, Any]]:
    """The number of these adapters that train fastest together; 1 when a pack does not pay.

    Each size takes the largest step of the first epoch, a few others and the largest batch of the evaluation set, all
    of the first trial's data, in this process alone, whatever the strategy is. Nothing is written, and base and random
    numbers stay as they were.

    Returns:
        The size, and facts for a log: the measured ``sizes`` and why the search ended.
    """
    device = trials[0].base.device

    def measure(size: int) -> Probe:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return _probe(trials[:size], dispatch)

    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return fastest_size(len(trials), measure, most_bytes=_SAFE * total)
    return fastest_size(len(trials), measure, free_bytes=_available)


@gpu_freed()
def _probe(trials: Sequence[Trial], dispatch: str) -> Probe:
    base, data, trainer_config = trials[0].base, trials[0].data, trials[0].config.trainer
    settings = replace(trainer_config, strategy="single", progress=False, max_epochs=1, max_steps=-1)
    nowhere = Path()  # nothing is written
    specs = [
        # At no rate to speak of: one that diverged would leave the pack, and others be measured without it.
        AdapterSpec(
            one.training_signature,
            one.config.lora,
            replace(one.config.optim, lr=1e-12),
            one.config.seed,
            nowhere,
            nowhere,
        )
        for one in trials
    ]
    data.setup()
    ends: list[tuple[float, int]] = []  # time and positions of every step
    with on_one_base(base, specs, dispatch) as (model, pack):
        states = [AdapterState(spec.optim, spec.seed, spec.name) for spec in specs]
        module = AdapterTraining(model, states, 1 + _TIMED, pack)
        fill_passes(base, module, specs, [data])
        steps: Any = _steps(data)

        def note_end(*_: Any) -> None:
            if base.device.type == "cuda":
                torch.cuda.synchronize(base.device)
            ends.append((time.perf_counter(), module.step_tokens))

        works = {spec.name: nowhere for spec in specs}
        trainer = make_trainer(module, settings, 1, works, [LambdaCallback(on_train_batch_end=note_end)])
        _forget_peak(base.device)
        run_trainer(trainer, module, DataLoader(steps, batch_size=None, collate_fn=list))
        module.validation_loss([data.largest_validation_batch()])
        rates = [tokens / (end - begin) for (begin, _), (end, tokens) in pairwise(ends)]
        return Probe(len(specs), statistics.median(rates), _peak(base.device))


def _steps(data: ConversationData) -> list[list[dict[str, Any]]]:
    """The largest step of the first epoch, in passes as large as any may be, then its first ones."""
    weighed, data.pass_seconds = data.pass_seconds, None
    largest = data.step(0, largest_step(data)[1])
    data.pass_seconds = weighed
    return [largest, *(data.step(0, step) for step in range(min(_TIMED, len(data.plan.epoch(0)))))]


def fastest_size(
    most: int,
    measure: Callable[[int], Probe],
    most_bytes: float = math.inf,
    free_bytes: Callable[[], float] = lambda: math.inf,
) -> tuple[int, dict[str, Any]]:
    """Measure sizes 1, 2, 4, ... up to ``most``, until a larger one does not pay or does not fit.

    Args:
        measure: may raise an error that ``out_of_memory`` knows.
        most_bytes: that a pack may need at its peak.
        free_bytes: memory that is free now; a size that is expected to need nearly all of it is not tried.

    Returns:
        As ``find_pack_size``.
    """
    probes, ended = list[Probe](), "all sizes were tried"
    for size in [*(2**power for power in range((most - 1).bit_length())), most]:
        if _growth(probes, size) >= _SAFE * free_bytes():
            ended = f"{size} adapters would not fit into memory"
            break
        try:
            probes.append(measure(size))
        except Exception as error:
            if not out_of_memory(error):
                raise
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


def _growth(probes: Sequence[Probe], size: int) -> float:
    """Bytes that a size is expected to need beyond the last one, from the difference of the last two."""
    if len(probes) < 2:
        return 0.0
    smaller, larger = probes[-2:]
    return max(0, larger.peak_bytes - smaller.peak_bytes) / (larger.size - smaller.size) * (size - larger.size)


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
