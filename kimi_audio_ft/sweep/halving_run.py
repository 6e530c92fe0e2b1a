"""Successive halving on a launch: train adapters to a rung, look up or keep their scores, record the decisions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kimi_audio_ft import store
from kimi_audio_ft.config.launcher import HalvingConfig
from kimi_audio_ft.config.train import ScoringConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import transcript_signatures
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import read_jsonl, write_json
from kimi_audio_ft.scoring import NORMALISATION_VERSION, read_options
from kimi_audio_ft.store.cache import keep, recall
from kimi_audio_ft.store.usage import note
from kimi_audio_ft.sweep.events import Event, Failed, Paused, Ready, UnitEvent
from kimi_audio_ft.sweep.halving import Candidate, Fate, RungResult, metric_of, show
from kimi_audio_ft.sweep.launch import Job, Launch, job_lines, rank_by
from kimi_audio_ft.sweep.plan import Unit, pack_key
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.sweep.view.screen import SweepView
from kimi_audio_ft.sweep_folder import HALVING, record_fitting
from kimi_audio_ft.text import printable
from kimi_audio_ft.trial import Trial


def num_steps(launch: Launch, job_overrides: Sequence[Sequence[str]]) -> list[int]:
    """Optimizer steps of every job's whole training; 0 when its config is not valid."""
    jobs = launch.compose(job_overrides, 0)
    _require_trainings(jobs)
    known: dict[str, int] = {}  # those with the same batches are counted once

    def length(trial: Trial) -> int:
        key, trainer = pack_key(trial.config), trial.config.trainer
        if key not in known:
            trial.data.setup()
            known[key] = trial.data.num_steps(trainer.max_epochs, trainer.max_steps)
        return known[key]

    return [length(job.trial) if job.trial else 0 for job in jobs]


def train_until(launch: Launch, job_overrides: Sequence[Sequence[str]], until: int, metric: str) -> list[RungResult]:
    """Train the jobs' adapters to an optimizer step, each from its last checkpoint, and evaluate them there.

    Args:
        metric: "cer" (greedy decoding of the evaluation set, by ``scoring.rank_by``) or "loss" (on its answers).

    Returns:
        One result for each job, in order; one without a signature for a job whose config is not valid. Scores that this
        sweep or another has kept are looked up.
    """
    jobs = launch.compose(job_overrides, 0)
    _require_trainings(jobs)
    if any(job.trial for job in jobs):
        SweepReport.begin()
    note(("adapter", job.key) for job in jobs if job.key is not None)
    results: dict[str, RungResult] = {}
    trials: dict[str, Trial] = {}
    for job in jobs:
        key, trial = job.key, job.trial
        if key is None or trial is None or key in results or key in trials:
            continue
        finished = store.find("adapter", key)
        score = RungScore(trial, until, metric).read()
        if score is None and finished is not None and metric == "loss":
            score = _loss_on_curve(finished, trial.plan.evaluation, until)
        if score is not None or finished is not None:
            results[key] = RungResult(key, until, score, None, finished is not None, trial.config.scoring.rank_by)
        else:
            trials[key] = trial
    if trials:
        results |= _train(launch, jobs, trials, until, metric)
    return [results[job.key] if job.key else RungResult("", until, None, str(job.error), False) for job in jobs]


def _train(
    launch: Launch, jobs: Sequence[Job], trials: dict[str, Trial], until: int, metric: str
) -> dict[str, RungResult]:
    results: dict[str, RungResult] = {}
    first = {job.key: job for job in reversed(jobs)}
    for key, trial in trials.items():
        launch.records.add_at_rung(key, trial, first[key].overrides)
    lines = job_lines([job for job in jobs if job.key in trials], trials)
    with SweepView(lines, rank_by=rank_by(jobs)) as view:

        def on_event(event: Event) -> None:
            view.event(event)
            if isinstance(event, UnitEvent):
                launch.records.event(event)
            if not isinstance(event, Paused | Failed | Ready):
                return
            key, trial, score = event.unit, trials[event.unit], None
            if isinstance(event, Paused):
                score = event.val_rate if metric == "cer" else event.val_loss
            if score is not None:
                RungScore(trial, until, metric).write(score)
            error = event.failure.message if isinstance(event, Failed) else None
            results[key] = RungResult(key, until, score, error, isinstance(event, Ready), trial.config.scoring.rank_by)

        units = [Unit(key, [trial.config], [trial.evaluation.identity]) for key, trial in trials.items()]
        launch.make(units, set(trials), on_event, view.stopping, until=until, metric=metric)
        record_fitting(launch.folder, view.state.fitting_seconds)
    if launch.stopped is not None:
        raise launch.stopped
    return results


def _require_trainings(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.trial is None and job.error is None:
            raise UserError(f"job {job.number} ({' '.join(job.overrides)}): is no training of this package")


def _loss_on_curve(adapter: Path, evaluation: str, step: int) -> float | None:
    """Validation loss of a finished adapter at a step where its curve has one, on the set of this identity."""
    if store.read_meta(adapter)["eval_identity"] != evaluation:
        return None
    rows = read_jsonl(adapter / "curves.jsonl")
    return next((row["loss"] for row in rows if row["split"] == "val" and row["step"] == step), None)


class RungScore:
    """An adapter's score at a step, cached in the store."""

    def __init__(self, trial: Trial, step: int, metric: str) -> None:
        adapter, evaluation = trial.plan.adapter, trial.evaluation
        self.facts = [adapter, step, metric, evaluation.identity]
        if metric == "cer":
            metric = trial.config.scoring.rank_by
            self.facts += transcript_signatures(evaluation, DecodingRequest.greedy(trial.config.decoding), adapter)
            self.facts += _ranked_by(trial.config.scoring)
        self.shown = {"adapter": adapter, "step": step, "metric": metric}

    def read(self) -> float | None:
        found = recall("rungs", self.facts)
        return None if found is None else float(found["score"])

    def write(self, score: float) -> None:
        keep("rungs", self.facts, {**self.shown, "score": score})


def _ranked_by(scoring: ScoringConfig) -> list[Any]:
    """What a rate depends on beside the transcripts; nothing of the strict CER."""
    if scoring.rank_by == "normalised_cer":
        return [scoring.rank_by, NORMALISATION_VERSION, asdict(read_options(scoring))]
    return [] if scoring.rank_by == ScoringConfig.rank_by else [scoring.rank_by]


# The decisions: ``halving.json`` in the sweep's folder, and a table in the terminal.

_SETTINGS = ("rungs", "reduction_factor", "metric", "max_candidates", "seed")
_MOST_ROWS = 40
_STYLES = {Fate.CONTINUED: None, Fate.PASSED: None, Fate.STOPPED: "dim", Fate.FAILED: "red"}


class HalvingRecord:
    """Writes ``halving.json`` anew after every rung.

    A decision of an interrupted sweep in the same folder keeps its time when it is made in the same way again.
    """

    def __init__(self, folder: Path, settings: HalvingConfig, num_jobs: int) -> None:
        self.path = folder / HALVING
        self.settings, self.num_jobs = settings, num_jobs
        self._times = dict(_times(self.path))

    def write(self, candidates: Sequence[Candidate]) -> None:
        document = {
            **{name: getattr(self.settings, name) for name in _SETTINGS},
            "metric": metric_of([one for candidate in candidates for one in candidate.results], self.settings.metric),
            "jobs_in_grid": self.num_jobs,
            "steps_trained": sum(one.num_steps if one.is_alive else one.results[-1].step for one in candidates),
            "steps_of_all": sum(candidate.num_steps for candidate in candidates),
            "candidates": [self._entry(candidate) for candidate in candidates],
        }
        write_json(self.path, document)

    def _entry(self, candidate: Candidate) -> dict[str, Any]:
        history = [self._rung(candidate, rung) for rung in range(len(candidate.decisions))]
        untouched = {"rung": 0, "step": 0, "score": None, "rank": None, "decision": Fate.CONTINUED, "reason": ""}
        return {
            "name": candidate.name,
            "overrides": candidate.overrides,
            "jobs": len(candidate.jobs),
            "signature": candidate.signature,
            "num_steps": candidate.num_steps,
            **(history[-1] if history else {**untouched, "time": None}),
            "history": history,
        }

    def _rung(self, candidate: Candidate, rung: int) -> dict[str, Any]:
        result, decision = candidate.results[rung], candidate.decisions[rung]
        score = result.score if result.score is not None and math.isfinite(result.score) else None
        facts = {"rung": rung + 1, "step": result.step, "score": score, **asdict(decision)}
        facts["decision"] = facts.pop("fate")
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        return {**facts, "time": self._times.setdefault(_decided(candidate.signature, facts), now)}


def _times(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        for entry in json.loads(path.read_text(encoding="utf-8"))["candidates"]:
            for rung in entry["history"]:
                yield _decided(entry["signature"], rung), rung["time"]


def _decided(signature: str, rung: dict[str, Any]) -> str:
    return json.dumps([signature, *(rung[key] for key in ("rung", "step", "score", "rank", "decision"))])


def print_rung(candidates: Sequence[Candidate], rung: int, settings: HalvingConfig) -> None:
    """Print the decisions about the candidates that reached a rung, counted from 0."""
    reached = [candidate for candidate in candidates if len(candidate.decisions) > rung]
    alive = sum(candidate.is_alive for candidate in reached)
    steps = sorted({candidate.results[rung].step for candidate in reached})
    at = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    title = f"Rung {rung + 1} of {len(settings.rungs)}, {at}: {alive} of {len(reached)} adapters continue"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("#", "adapter", "score", "decision"):
        table.add_column(heading, justify="right" if heading == "#" else "left", overflow="fold")
    reached.sort(key=lambda candidate: candidate.decisions[rung].rank or math.inf)
    for candidate in reached[:_MOST_ROWS]:
        decision, score = candidate.decisions[rung], candidate.results[rung].score
        said = decision.fate.value
        if decision.fate in (Fate.FAILED, Fate.PASSED):
            said += f": {decision.reason.splitlines()[0]}"
        metric = metric_of([candidate.results[rung]], settings.metric)
        cells = (str(decision.rank or "–"), candidate.name, show(score, metric), said)
        table.add_row(*(Text(printable(cell)) for cell in cells), style=_STYLES[decision.fate])
    console = Console()
    console.print(Text(title), style="bold")  # as the table's title it would be folded to the table's width
    console.print(table)
    if len(reached) > _MOST_ROWS:
        console.print(f"... and {len(reached) - _MOST_ROWS} more, all in {HALVING}")
