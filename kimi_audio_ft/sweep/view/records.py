"""Records of a sweep's trials that fill while their adapters train."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from kimi_audio_ft.sweep.events import Fitting, Point, Step, UnitEvent
from kimi_audio_ft.tracking import make_tracker, metrics_of
from kimi_audio_ft.trial import Trial


class LiveRecords:
    """Opens the W&B runs of trials when their adapter begins to train, and feeds them; the trials close them.

    All trials of an adapter get its curves. As a context it closes, at an interruption, the runs of trials that did not
    run; the same command goes on with them. group: the sweep's folder.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self._trials: dict[str, list[tuple[Trial, Path]]] = defaultdict(list)
        self._speeds: dict[str, float] = {}
        self._open: list[Trial] = []

    def add(self, key: str | None, trial: Trial, folder: Path | None) -> None:
        """Follow a trial, by the key of its adapter's unit."""
        if key is not None and folder is not None and trial.config.logger.kind == "wandb":
            self._trials[key].append((trial, folder))

    def event(self, event: UnitEvent) -> None:
        """Take in an event of a unit."""
        match event:
            case Fitting():
                for trial, folder in self._trials[event.unit]:
                    self._begin(trial, folder)
            case Step():
                self._speeds[event.unit] = event.tokens_per_second
            case Point(row=row):
                values = metrics_of(row)
                if row["split"] == "train" and event.unit in self._speeds:
                    values["train/tokens_per_second"] = self._speeds[event.unit]
                for trial, _ in self._trials[event.unit]:
                    if trial.tracker is not None:
                        trial.tracker.log(values, row["step"])

    def closed(self, trial: Trial | None) -> None:
        """The trial has run and closed its record."""
        if trial in self._open:
            self._open.remove(trial)

    def __enter__(self) -> LiveRecords:
        return self

    def __exit__(self, *_: object) -> None:
        for trial in self._open:
            assert trial.tracker is not None
            trial.tracker.fail("interrupted")

    def _begin(self, trial: Trial, folder: Path) -> None:
        if trial.tracker is None:
            folder.mkdir(parents=True, exist_ok=True)
            config, name = trial.config, trial.name or folder.name
            trial.tracker = make_tracker(
                config.logger, trial_name=name, group=self._group, config=asdict(config), folder=folder
            )
            self._open.append(trial)
