"""How many adapters to train together: a few steps with 1, 2, 4, ... of them, thrown away again."""

from __future__ import annotations

import json
import logging
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
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
from kimi_audio_ft.files import write_json
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.runtime.devices import device
from kimi_audio_ft.store.signature import digest_of
from kimi_audio_ft.sweep.plan import pack_key
from kimi_audio_ft.training.adapters import Learner, Member
from kimi_audio_ft.training.fit import make_trainer, on_one_base, run_trainer
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.training.passes import Step
from kimi_audio_ft.trial import Trial

# A larger pack must be faster than a smaller one by this factor; less is noise, and costs memory.
_PAYS = 1.05
# Steps that are timed, after the largest one of the epoch, which warms up and needs the most memory.
_TIMED = 3
# Part of the memory that a pack may need: training goes on for longer than a probe.
_SAFE = 0.9


@dataclass(frozen=True)
class Probe:
    """What was measured: positions per second of all adapters together (no padding), and bytes at the peak."""

    size: int
    tokens_per_second: float
    peak_bytes: int


def find_pack_size(
    base: Base,
    members: Sequence[Member],
    data: ConversationData | Mapping[str, ConversationData],
    settings: TrainerConfig,
    dispatch: str = "slice",
) -> tuple[int, dict[str, Any]]:
    """The number of these members that train fastest together; 1 when a pack does not pay.

    Each size takes the largest step of the first epoch, a few others and the largest batch of the evaluation set, in
    this process alone, whatever the strategy is. Nothing is written, and base and random numbers stay as they were.

    Returns:
        The size, and facts for a log: the measured ``sizes`` and why the search ended.
    """
    settings = replace(settings, strategy="single", progress=False)
    place, probes, ended = device(settings.accelerator), list[Probe](), "all sizes were tried"
    for size in _sizes(len(members)):
        if place.type == "cpu" and not _fits(probes, size):
            ended = f"{size} adapters would not fit into memory"
            break
        try:
            with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
                probes.append(_probe(base, members[:size], data, settings, dispatch, place))
        except (torch.OutOfMemoryError, MemoryError):
            ended = f"{size} adapters did not fit into memory"
            break
        finally:
            if place.type == "cuda":
                torch.cuda.empty_cache()
        if probes[-1].peak_bytes > _limit(place):
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


def _fits(probes: Sequence[Probe], size: int) -> bool:
    """Whether the CPU's memory will do, from what the last two sizes took."""
    if len(probes) < 2:
        return True
    smaller, larger = probes[-2:]
    each = max(0, larger.peak_bytes - smaller.peak_bytes) / (larger.size - smaller.size)
    return each * (size - larger.size) < _SAFE * _available()


class _Clock(pl.Callback):
    """Positions per second of every step but the first."""

    def __init__(self, place: torch.device) -> None:
        self.place, self.rates = place, list[float]()
        self._since = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._since = self._now()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, AdapterTraining)
        self.rates.append(pl_module.step_tokens / (self._now() - self._since))

    def _now(self) -> float:
        if self.place.type == "cuda":
            torch.cuda.synchronize(self.place)
        return time.perf_counter()


def _probe(
    base: Base,
    members: Sequence[Member],
    data: ConversationData | Mapping[str, ConversationData],
    settings: TrainerConfig,
    dispatch: str,
    place: torch.device,
) -> Probe:
    own = {m.name: data if isinstance(data, ConversationData) else data[m.name] for m in members}
    first = own[members[0].name]
    for one in own.values():
        one.setup()
    steps: Any = list(_steps(own, shared=isinstance(data, ConversationData)))
    settings = replace(settings, max_epochs=1, max_steps=-1)
    with on_one_base(base, members, dispatch) as (model, pack):
        learners = [Learner(member.optim, member.seed, member.name) for member in members]
        module, clock = AdapterTraining(model, learners, len(steps), pack), _Clock(place)
        trainer = make_trainer(module, settings, 1, dict.fromkeys(own, Path()), [clock])
        _forget_peak(place)
        run_trainer(trainer, module, DataLoader(steps, batch_size=None, collate_fn=_as_it_is))
        module.validation_loss([first.largest_validation_batch()])
        return Probe(len(members), statistics.median(clock.rates[1:] or clock.rates), _peak(place))


def _steps(own: Mapping[str, ConversationData], shared: bool) -> Iterator[Step]:
    """The largest step of the first epoch, then its first ones."""
    first = next(iter(own.values()))
    plan = first.plan.epoch(0)
    sizes = [sum(int(first.plan.lengths[draw.index]) for draw in plan.step(step)) for step in range(len(plan))]
    for step in [sizes.index(max(sizes)), *range(min(_TIMED, len(plan)))]:
        yield first.step(0, step) if shared else {name: data.step(0, step) for name, data in own.items()}


def _as_it_is(step: Step) -> Step:
    return step


def _forget_peak(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark begins anew


def _peak(place: torch.device) -> int:
    if place.type == "cuda":
        return int(torch.cuda.max_memory_allocated(place))
    return _kilobytes(Path("/proc/self/status"), "VmHWM:") * 1024


def _limit(place: torch.device) -> float:
    """Bytes that a pack may need at its peak; on the CPU ``_fits`` has looked ahead."""
    return _SAFE * torch.cuda.get_device_properties(place).total_memory if place.type == "cuda" else float("inf")


def _available() -> float:
    """Bytes of memory that are free to use; unknown ones are without limit."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable:") * 1024 or float("inf")


def _kilobytes(table: Path, name: str) -> int:
    """A value of one of Linux's tables; 0 on another system."""
    with suppress(OSError):
        for line in table.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


# --- How many adapters train together, when nobody has said: tried once for every machine and kind of training.

log = logging.getLogger(__name__)

# Where several processes train together none can try a size for all of them.
_WITHOUT_PROBE = 8


def probed_pack_size(trials: Sequence[Trial], dispatch: str, ranks: int) -> int:
    """The pack size that trains these adapters fastest on this machine; 1 when packing does not pay.

    What was found is kept in the store's ``probes`` folder: the next sweep does not try again.
    """
    if ranks > 1:
        return min(_WITHOUT_PROBE, len(trials))
    first = trials[0]
    widest = max(trial.config.lora.r for trial in trials)
    facts = [device_name(first), pack_key(first.config, same_data=False), dispatch, widest, len(trials)]
    known = store_root() / "probes" / f"{digest_of(facts)}.json"
    if known.is_file():
        size = int(json.loads(known.read_text(encoding="utf-8"))["pack_size"])
        log.info("pack size %d, as found before (%s)", size, known)
        return size

    nowhere = Path()  # nothing is written
    members = [
        Member(trial.training_signature, trial.config.lora, trial.config.optim, trial.config.seed, nowhere, nowhere)
        for trial in trials
    ]
    size, measured = find_pack_size(first.base, members, first.data, first.config.trainer, dispatch)
    write_json(known, {"pack_size": size, "measured": measured, "of": facts})
    log.info("pack size %d, from a few steps of each (%s)", size, known)
    return size


def device_name(trial: Trial) -> str:
    """What computes."""
    import torch

    place = trial.base.device
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return f"{platform.node()} CPU, {torch.get_num_threads()} threads"
