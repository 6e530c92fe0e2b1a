"""A sweep's plan: units (one adapter each), the packs that train together, and the tasks that run side by side."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kimi_audio_ft.config.instance import instance
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import read_yaml, write_json
from kimi_audio_ft.lora import solo
from kimi_audio_ft.store.signature import canonical
from kimi_audio_ft.sweep_folder import RUN_WITH_CONFIG, hydras_folder

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Unit:
    """One adapter: train it unless the store has it, then decode all that its jobs ask for.

    key: its training signature; ``BASE`` for the base alone.
    jobs: the configs that need it, one for every different way of decoding; the first one trains it.
    evaluations: planned identity of each job's evaluation set; empty: whatever is read is taken.
    adapter: folder of an adapter that is no product of the store, and is decoded as it is; None: that of the key.
    """

    key: str
    jobs: list[TrainConfig]
    evaluations: list[str] = field(default_factory=list)
    adapter: str | None = None

    @property
    def config(self) -> TrainConfig:
        return self.jobs[0]

    def planned_evaluation(self, job: TrainConfig) -> str | None:
        """Planned identity of a job's evaluation set."""
        return self.evaluations[self.jobs.index(job)] if self.evaluations else None


@dataclass(frozen=True)
class Task:
    """Units that one process makes, training together those that are not in the store.

    dispatch: "slice", "batched" (``lora.pack``) or "auto". pack_size: adapters that train together at most; 0 is found
    out. same_data: only adapters with the same seed train together. log: file that takes what its processes print.
    until: stop training at this optimizer step, keep the checkpoint and validate (a rung of halving); None: to the end.
    metric: what a rung is judged by, "cer" (each job's ``scoring.rank_by``) or "loss".
    side_by_side: tasks at most that share the cores and the memory of its machine, itself among them.
    """

    number: int
    units: list[Unit]
    dispatch: str = "auto"
    pack_size: int = 0
    same_data: bool = True
    log: str | None = None
    until: int | None = None
    metric: str = "cer"
    side_by_side: int = 1

    def with_units(self, units: Sequence[Unit]) -> Task:
        return replace(self, units=list(units))


def write_task(task: Task, path: Path) -> None:
    write_json(path, asdict(task))


def read_task(path: Path) -> Task:
    values = json.loads(path.read_text(encoding="utf-8"))
    units = [
        Unit(**(unit | {"jobs": [instance(TrainConfig, job) for job in unit["jobs"]]})) for unit in values.pop("units")
    ]
    return Task(units=units, **values)


def train_config(values: dict[str, Any]) -> TrainConfig:
    """A checked config from its nested dict."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), values))
    assert isinstance(config, TrainConfig)
    return config


def written_config(folder: Path) -> TrainConfig:
    """The config that Hydra wrote into a trial's folder.

    Raises:
        DataError: there is none, or it is one of ``evaluate`` or of another version.
    """
    path = hydras_folder(folder) / "config.yaml"
    written: Any = read_yaml(path, RUN_WITH_CONFIG)
    if isinstance(written, dict) and "any_base" in written:
        rule = "is the config of an evaluation, where that of a training is needed"
        raise DataError(path, rule, "Take a sweep of kimi_audio_ft.train, or name the adapter")
    try:
        values = OmegaConf.to_container(OmegaConf.create(written), resolve=True)
        return train_config(cast(dict[str, Any], values))
    except (OmegaConfBaseException, ValueError, AttributeError, TypeError) as error:
        said = " ".join(str(error).split())
        raise DataError(path, f"is no config of this version ({said})", "Run the sweep again") from None


def started_in(trial: Path) -> Path:
    """The folder that a trial's command was started in, from which its config's paths are; where there is none any
    more, or Hydra has written none, the present one.

    Args:
        trial: its folder.
    """
    path = hydras_folder(trial) / "hydra.yaml"
    written: Any = read_yaml(path, "Run the sweep again") if path.is_file() else None
    try:
        place = Path(written["hydra"]["runtime"]["cwd"])
    except (TypeError, KeyError):
        return Path.cwd()
    return place if place.is_dir() else Path.cwd()


# Which units share a process, and which adapters train together in it.


def process_key(config: TrainConfig) -> str:
    """Equal for units that one process can make: they share the frozen base, and the devices that it lies on."""
    return canonical([asdict(config.model), config.data.features, asdict(config.trainer)])


def pack_key(config: TrainConfig, same_data: bool = True) -> str:
    """Equal for adapters that can train together: they share the base, the batches and their order, and the steps.

    They may differ in everything of ``lora``, in AdamW's values, schedule, warm-up and clipping, and, unless they must
    see the same batches, in the seed.
    """
    shared = [asdict(config.model), asdict(config.data), asdict(config.trainer), config.optim.loss_average]
    return canonical([*shared, config.seed if same_data else None])


def grouped(items: Iterable[_Item], key: Callable[[_Item], Hashable]) -> list[list[_Item]]:
    """Items with equal keys together, in the order of the first of each."""
    groups: dict[Hashable, list[_Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def in_chunks(items: Sequence[_Item], size: int) -> list[list[_Item]]:
    """Consecutive groups of at most so many."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def even_chunks(items: Sequence[_Item], count: int) -> list[list[_Item]]:
    """At most ``count`` consecutive groups of nearly equal size."""
    count = min(count, len(items))
    bounds = [round(index * len(items) / count) for index in range(count + 1)] if count else []
    return [list(items[start:end]) for start, end in pairwise(bounds)]


def why_solo(config: TrainConfig) -> str | None:
    """Why an adapter cannot share the base with others while it trains; None when it can."""
    from kimi_audio_ft.trial import Trial

    # Only an encoder that runs while training can be adapted.
    targets = Trial(config).base.targets(config.lora) if config.data.features == "online" else []
    return solo.why_solo(config.lora, config.model, config.trainer, targets)


def pack_units(units: Sequence[Unit], same_data: bool) -> list[list[Unit]]:
    """Units that can train together, as one pack whatever its size; those that must train alone are alone."""
    packs: list[list[Unit]] = []
    for group in grouped(units, lambda unit: pack_key(unit.config, same_data)):
        reasons = {unit.key: why_solo(unit.config) for unit in group}
        pack = [unit for unit in group if reasons[unit.key] is None]
        packs += [pack] if pack else []
        for unit in group:
            if reasons[unit.key] is not None:
                log.info("%s trains by itself: %s", unit.key, reasons[unit.key])
                packs.append([unit])
    return packs


def make_tasks(units: Sequence[Unit], untrained: set[str], template: Task, slots: int) -> list[Task]:
    """Tasks for slots that work at the same time.

    One slot gets one task for each base, so that it is read once; its adapters are packed inside. Several slots share
    the packs, and each decodes what it has trained.
    """
    tasks: list[list[Unit]] = []
    for group in grouped(units, lambda unit: process_key(unit.config)):
        if slots == 1:
            tasks.append(group)
            continue
        training = [unit for unit in group if unit.key in untrained]
        packs = pack_units(training, template.same_data)
        size = template.pack_size or -(-len(training) // slots) or 1
        tasks += [chunk for pack in packs for chunk in in_chunks(pack, size)]
        tasks += even_chunks([unit for unit in group if unit.key not in untrained], slots)
    return [replace(template, number=number, units=some) for number, some in enumerate(tasks)]
