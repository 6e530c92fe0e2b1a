"""Records of a sweep's trials that fill while their adapters train."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from kimi_audio_ft.runtime.wandb_server import SYNC, described
from kimi_audio_ft.sweep.events import Fitting, Point, Step, UnitEvent
from kimi_audio_ft.sweep.halving import Candidate, Fate
from kimi_audio_ft.sweep_folder import OF_ADAPTERS
from kimi_audio_ft.text import short_names
from kimi_audio_ft.tracking import LIVE, RUNG, Tracker, Utterance, continue_record, make_tracker, metrics_of
from kimi_audio_ft.trial import Trial

log = logging.getLogger(__name__)


class LiveRecords:
    """Opens the records (``LIVE``) of trials when their adapter begins to train, and feeds them; the trials close them.

    All trials of an adapter get its curves. W&B may take half a minute to answer, so one thread makes all the calls, in
    their order, and only a trial that has run waits for its own. As a context it closes, at an interruption, the runs
    of trials that did not run; the same command goes on with them.

    Successive halving trains adapters before it is known which trials there will be. Until then an adapter has one
    record, of its first job, in a folder of its own; the first trial that decodes with it goes on in that record.

    Args:
        group: the sweep's folder.
        local: adapters train on this machine, so that its load is theirs.
        closing_seconds: how long an interruption waits for the records to be closed.
        jobs: overrides of all jobs that halving chooses from, to name the records.
    """

    def __init__(
        self, group: str, local: bool = True, closing_seconds: float = 60.0, jobs: Sequence[Sequence[str]] = ()
    ) -> None:
        self._group, self._local, self._closing_seconds = group, local, closing_seconds
        self._names = dict(zip(map(tuple, jobs), short_names(jobs), strict=True)) if jobs else {}
        self._trials: dict[str, list[tuple[Trial, Path]]] = defaultdict(list)
        self._at_rung: dict[str, Trial] = {}
        self._rungs: dict[str, list[tuple[dict[str, float], int]]] = defaultdict(list)
        self._speeds: dict[str, float] = {}
        self._open: list[Trial] = []
        self._kinds: set[str] = set()  # of all that were opened
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def add(self, key: str | None, trial: Trial, folder: Path | None) -> None:
        """Follow a trial, by the key of its adapter's unit."""
        if key is None or folder is None or trial.config.logger.kind not in LIVE:
            return
        if (earlier := self._at_rung.pop(key, None)) is not None:
            self._trials.pop(key)
            self._hand_over(earlier, trial, folder)
        begun = self._of_adapter(key)
        if not self._trials[key] and trial.tracker is None and begun != folder:
            continue_record(trial.config.logger.kind, begun, folder)
        self._trials[key].append((trial, folder))

    def add_at_rung(self, key: str, trial: Trial, overrides: Sequence[str]) -> None:
        """Follow an adapter to its next rung, by its first job."""
        trial.name = self._names.get(tuple(overrides))
        self.add(key, trial, self._of_adapter(key))
        if trial.config.logger.kind in LIVE:
            self._at_rung[key] = trial

    def decided(self, candidates: Sequence[Candidate], rung: int) -> None:
        """Record what a rung, counted from 0, has decided; records of adapters that do not go on are closed."""
        for one in candidates:
            if len(one.decisions) <= rung:
                continue  # it was out before
            result, decision = one.results[rung], one.decisions[rung]
            values = {RUNG: rung + 1} | ({} if result.score is None else {"halving/score": result.score})
            self._rungs[one.signature].append((values, result.step))
            trial = self._at_rung.get(one.signature)
            if trial is None or trial.tracker is None:
                continue  # nothing was trained for this rung
            trial.tracker.log(values, result.step)
            if decision.fate is Fate.STOPPED:
                trial.tracker.finish({"halving/stopped_at": result.step}, [])
            elif decision.fate is Fate.FAILED:
                trial.tracker.fail(decision.reason)
            if not one.is_alive:
                self._open.remove(trial)
                del self._at_rung[one.signature]

    def event(self, event: UnitEvent) -> None:
        """Take in an event of a unit."""
        match event:
            case Fitting():
                for trial, folder in self._trials[event.unit]:
                    self._begin(event.unit, trial, folder)
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
        """The trial has run, and closed its record unless it ran in another way than it was planned."""
        if trial is not None and trial in self._open:
            self._open.remove(trial)
            assert trial.tracker is not None
            trial.tracker.fail("the trial ran without this record")

    def __enter__(self) -> LiveRecords:
        return self

    def __exit__(self, interrupted: type[BaseException] | None, *_: object) -> None:
        for trial in self._open:
            assert trial.tracker is not None
            trial.tracker.fail("interrupted")
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(self._closing_seconds if interrupted else None)
            if self._thread.is_alive():
                self._warn()
        self._open, self._thread = [], None  # further launches of the sweep may follow

    def _warn(self) -> None:
        """Say that records are not closed in time."""
        if "wandb" in self._kinds:
            folders = f"the trials' folders and in {self._of_adapter('*')}" if self._names else "the trials' folders"
            log.warning("W&B does not answer; what it lacks is in %s, for `%s`", folders, SYNC)
        else:
            log.warning("Records (%s) are not written to their end", ", ".join(sorted(self._kinds)))

    def _of_adapter(self, key: str) -> Path:
        return Path(self._group, OF_ADAPTERS, f"adapter-{key}")

    def _hand_over(self, earlier: Trial, trial: Trial, folder: Path) -> None:
        if earlier.tracker is not None:
            trial.tracker = earlier.tracker
            trial.tracker.belongs_to(folder.resolve())
            self._open[self._open.index(earlier)] = trial

    def _begin(self, key: str, trial: Trial, folder: Path) -> None:
        if trial.tracker is not None:
            return
        config = trial.config
        settings = config.logger if self._local else replace(config.logger, system_metrics=False)
        facts: dict[str, Any] = {"trial_name": trial.name or folder.name, "config": asdict(config)}
        trial.tracker = _Queued(
            self._calls,
            lambda: make_tracker(settings, group=self._group, folder=folder.resolve(), **facts),
            shows_utterances=LIVE[settings.kind].shows_utterances,
        )
        self._kinds.add(settings.kind)
        for values, step in self._rungs[key]:
            trial.tracker.log(values, step)
        self._open.append(trial)
        if self._thread is None:
            self._thread = Thread(target=self._work, name="records", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # as in the record itself, none may end a sweep
                log.warning("A trial is not recorded: %s", described(error))


class _Queued(Tracker):
    """A record that another thread opens, fills and closes.

    Whoever finishes it with transcripts waits, so that they do not pile up where W&B is slower than the trials.
    """

    def __init__(
        self, calls: SimpleQueue[Callable[[], None] | None], make: Callable[[], Tracker], shows_utterances: bool
    ) -> None:
        self._calls, self._record = calls, Tracker()  # that one keeps nothing
        self.shows_utterances = shows_utterances
        calls.put(lambda: self._begin(make))

    def _begin(self, make: Callable[[], Tracker]) -> None:
        self._record = make()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._calls.put(lambda: self._record.log(metrics, step))

    def belongs_to(self, folder: Path) -> None:
        self._calls.put(lambda: self._record.belongs_to(folder))

    def keep_adapter(self, folder: Path, signature: str) -> None:
        self._calls.put(lambda: self._record.keep_adapter(folder, signature))

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        done = Event()

        def finish() -> None:
            try:
                self._record.finish(summary, utterances)
            finally:
                done.set()

        self._calls.put(finish)
        if utterances:
            done.wait()

    def fail(self, message: str) -> None:
        self._calls.put(lambda: self._record.fail(message))
