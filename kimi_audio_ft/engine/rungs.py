"""Training a batch of jobs' adapters to the same step, to compare them there (successive halving)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kimi_audio_ft import store
from kimi_audio_ft.engine.halving import RungResult
from kimi_audio_ft.engine.jobs import Job
from kimi_audio_ft.engine.launch import Launch
from kimi_audio_ft.engine.view import JobLine, SweepView
from kimi_audio_ft.engine.work import Event, Unit
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.schema import TrainConfig
from kimi_audio_ft.signature import digest_of
from kimi_audio_ft.store import write_json
from kimi_audio_ft.trial import Trial


def num_steps(launch: Launch, job_overrides: Sequence[Sequence[str]]) -> list[int]:
    """Optimizer steps of every job's whole training."""
    return [_num_steps(_settings(job)) for job in launch.compose(job_overrides, 0)]


def train_until(launch: Launch, job_overrides: Sequence[Sequence[str]], until: int, metric: str) -> list[RungResult]:
    """Train the jobs' adapters to an optimizer step, each from where it is, and judge them there.

    Args:
        metric: "cer" (greedy decoding of the evaluation set) or "loss" (on its answers).

    Returns:
        One result for each job, in order. What was judged before, by this sweep or another, is looked up.
    """
    jobs = launch.compose(job_overrides, 0)
    results: dict[str, RungResult] = {}
    units: dict[str, Unit] = {}
    for job in jobs:
        key, config = job.key or "", _settings(job)
        if key in results or key in units:
            continue
        known = _Record(config, key, until, metric).read()
        if known is not None or store.find("adapter", key) is not None:
            steps = _num_steps(config)
            results[key] = RungResult(key, until, steps, known, None, store.find("adapter", key) is not None)
        else:
            units[key] = Unit(key, [config])
    if units:
        results |= _train(launch, jobs, units, until, metric)
    return [results[job.key or ""] for job in jobs]


def _train(
    launch: Launch, jobs: Sequence[Job], units: dict[str, Unit], until: int, metric: str
) -> dict[str, RungResult]:
    results: dict[str, RungResult] = {}
    lines = [JobLine(job.number, launch.name(job), job.key, "waiting") for job in jobs if job.key in units]
    with SweepView(lines) as view:

        def on_event(event: Event) -> None:
            view.event(event)
            key, name = event["unit"], event["event"]
            if name not in ("paused", "failed", "ready"):
                return
            config = units[key].config
            score = event["val_cer" if metric == "cer" else "val_loss"] if name == "paused" else None
            if score is not None:
                _Record(config, key, until, metric).write(score)
            error = event["message"] if name == "failed" else None
            results[key] = RungResult(key, until, _num_steps(config), score, error, name == "ready")

        launch.make(list(units.values()), set(units), on_event, view.stopping, until=until, metric=metric)
    if launch.stopping:
        raise KeyboardInterrupt
    return results


def _settings(job: Job) -> TrainConfig:
    if job.settings is None:
        raise job.error or UserError(f"job {job.number} ({' '.join(job.overrides)}): is no training of this package")
    return job.settings


def _num_steps(config: TrainConfig) -> int:
    data = Trial(config).data
    data.setup()
    return data.num_steps(config.trainer.max_epochs, config.trainer.max_steps)


class _Record:
    """What an adapter was judged at a step, kept in the store's ``rungs`` folder."""

    def __init__(self, config: TrainConfig, key: str, step: int, metric: str) -> None:
        facts = [key, step, metric, Trial(config).evaluation.identity, asdict(config.data), asdict(config.decoding)]
        self.path: Path = store_root() / "rungs" / f"{digest_of(facts)}.json"
        self.facts = {"adapter": key, "step": step, "metric": metric}

    def read(self) -> float | None:
        return float(json.loads(self.path.read_text(encoding="utf-8"))["score"]) if self.path.is_file() else None

    def write(self, score: float) -> None:
        write_json(self.path, {**self.facts, "score": score})
