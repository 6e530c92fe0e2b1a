"""What is to be made, as data: units (one adapter and all that is decoded with it), in tasks (what one process does).

A task is plain JSON, so it can go to another machine, and a person can read it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.files import write_json

Event = dict[str, Any]
"""What happens to a unit, as JSON: ``{"event": NAME, "unit": KEY, ...}``. The names, with what else they carry:

fitting: its training begins or goes on; ``pack`` (number of adapters that train together), ``task`` (its number: packs
of several tasks train at the same time).
step: ``step``, ``steps``, ``loss``, ``tokens_per_second`` (of the whole pack; padding not counted).
decoding: ``done``, ``total`` (utterances times samplings).
waiting: another process is making it.
ready: all that its jobs ask for is in the store; ``fitted`` (by this task; else it was there before).
paused: ``until`` was reached; ``step``, ``val_loss``, ``val_cer``.
failed: ``error_type``, ``message``, ``user`` (whether a person can mend it), ``traceback`` (empty for such errors).
interrupted: the task was asked to stop; ``step`` of the checkpoint, or None when it was not training.
split: of a task, with ``unit`` None: ``units`` (keys), ``reason``; they are tried again in smaller packs.
"""

"""Key of the unit that decodes with no adapter."""


@dataclass(frozen=True)
class Unit:
    """One adapter: train it unless the store has it, then decode all that its jobs ask for.

    key: its training signature; ``BASE`` for the base alone.
    jobs: the configs that need it, one for every different way of decoding; the first one trains it.
    """

    key: str
    jobs: list[TrainConfig]

    @property
    def config(self) -> TrainConfig:
        """What trains it."""
        return self.jobs[0]


@dataclass(frozen=True)
class Task:
    """Units that one supervised process makes, training together those that are not in the store.

    dispatch: "slice", "batched" (``lora.pack``) or "auto". pack_size: adapters that train together at most; 0 is found
    out. same_data: only adapters with the same seed train together. ranks: processes of a training.
    log: file that takes what its processes print; None leaves them the supervisor's output.
    until: stop training at this optimizer step, keep the checkpoint and validate (a rung of halving); None: to the end.
    metric: what a rung is judged by, "cer" or "loss".
    """

    number: int
    units: list[Unit]
    dispatch: str = "auto"
    pack_size: int = 0
    same_data: bool = True
    ranks: int = 1
    log: str | None = None
    until: int | None = None
    metric: str = "cer"

    def with_units(self, units: Sequence[Unit]) -> Task:
        """The same task about other units."""
        return replace(self, units=list(units))


def write_task(task: Task, path: Path) -> None:
    """Write a task for another process."""
    write_json(path, asdict(task))


def read_task(path: Path) -> Task:
    """Read what ``write_task`` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    units = [Unit(unit["key"], [train_config(job) for job in unit["jobs"]]) for unit in values.pop("units")]
    return Task(units=units, **values)


def train_config(values: dict[str, Any]) -> TrainConfig:
    """A checked config from its nested dict."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), values))
    assert isinstance(config, TrainConfig)
    return config
