"""A launch: what its jobs need, when they run, and that a large sweep is planned in seconds."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from rich.console import Console

from experiments.bench_overhead import arguments, sweep, write_manifest
from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.train import ScoringConfig, TrainConfig
from kimi_audio_ft.decoding.transcripts import EvaluationSet
from kimi_audio_ft.outcomes import BASE, Failure
from kimi_audio_ft.paths import config_dir
from kimi_audio_ft.sweep.compose import TemplateLoader
from kimi_audio_ft.sweep.events import Failed, Ready, Step
from kimi_audio_ft.sweep.launch import Batch, Job, Launch, Runner, job_lines, missing_units, rank_by
from kimi_audio_ft.sweep.view.records import LiveRecords
from kimi_audio_ft.sweep.view.screen import SweepView
from kimi_audio_ft.trial import Trial, TrialPlan

TRIALS = 200


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """A launch over small manifests."""
    write_manifest(tmp_path / "train.jsonl", 20, 1)
    write_manifest(tmp_path / "eval.jsonl", 8, 2)
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir(), job_name="train", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", arguments(tmp_path), RunMode.MULTIRUN)
        context = HydraContext(cast(ConfigLoader, TemplateLoader(hydra.config_loader)), Callbacks(config))
        yield Launch(LauncherConfig(), Runner(context, lambda config: None, config))


@pytest.mark.slow
def test_two_hundred_trials_are_planned_in_a_third_of_the_time_that_hydra_takes(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    own = EvaluationSet.__init__
    monkeypatch.setattr(EvaluationSet, "__init__", lambda *given: opened.append(given) or own(*given))
    shared = [override for override in arguments(tmp_path) if not override.startswith("hydra.")]
    started = time.process_time()
    jobs = launch.compose([[*shared, *point] for point in sweep(TRIALS)], 0)
    units, untrained = missing_units(jobs)
    seconds = time.process_time() - started
    assert [job.error for job in jobs] == [None] * TRIALS
    assert len(untrained) == TRIALS // 4 and len(units) == TRIALS // 4 + 1 and units[0].key == BASE
    assert all(len(unit.jobs) == 4 for unit in units)
    assert [job.folder for job in jobs] == [tmp_path / "sweep" / str(number) for number in range(TRIALS)]
    assert len(opened) == 1
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    started = time.process_time()
    for point in sweep(8):
        hydra.compose_config("train", [*shared, *point], RunMode.MULTIRUN)
    assert seconds < (time.process_time() - started) / 8 * TRIALS / 3


NO_CONFIG: Any = None


def job(number: int, key: str, config: TrainConfig) -> Job:
    plan = TrialPlan(key, "e", (), ("t",) if config.baseline else ())
    return Job(number, [f"seed={number}"], NO_CONFIG, trial=Trial(config), plan=plan)


class Ran:
    """A launch, and its runner, that runs a job by noting it, with what the job can see of its unit."""

    def __init__(self) -> None:
        self.jobs: list[tuple[int, str]] = []
        self.runner, self.settings, self.records = self, LauncherConfig(), LiveRecords("sweep")

    def log_as_hydra(self) -> None:
        pass

    def run(self, job: Job) -> JobReturn:
        job.returned = JobReturn(status=JobStatus.COMPLETED)
        job.returned.return_value = 0.5
        assert job.trial is not None
        failure = job.trial.outcomes.failed.get(job.key or "")
        fitted = job.trial.outcomes.take_fitted(job.key or "")
        self.jobs.append((job.number, failure.message if failure else "fitted" if fitted else "reused"))
        return job.returned


def test_jobs_run_when_their_units_have_ended_and_see_the_outcomes() -> None:
    plain, with_base = TrainConfig(baseline=False), TrainConfig(baseline=True)
    jobs = [job(0, "a", plain), job(1, "b", plain), job(2, "a", with_base), job(3, "c", plain), job(4, "b", plain)]
    launch: Any = Ran()
    with SweepView(job_lines(jobs, {"a", "b", BASE}), Console(file=io.StringIO())) as view:
        batch = Batch(jobs, {"a", "b", BASE}, launch, view)
        batch.run_ready()
        batch.event(Step("a", 1, 2, 0.5, 100.0))
        assert launch.jobs == [(3, "reused")]
        batch.event(Ready("a", fitted=True))
        batch.event(Failed("b", Failure("TrainingFailed", "nan", user=True)))
        batch.event(Ready(BASE, fitted=False))
    assert launch.jobs == [(3, "reused"), (0, "fitted"), (1, "nan"), (4, "nan"), (2, "reused")]
    assert view.state.scored == set(range(5)) and view.state.rows["c"].rates == [0.5]


def test_what_is_made_has_the_jobs_environment(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made in processes of this machine, which inherit it, or on others, which are told.

    Several jobs share what is made: what differs between them is set where they are scored alone.
    """
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "kimi_audio_ft.sweep.launch.make_units", lambda *given, **told: seen.update(told, ours=os.environ.get("OURS"))
    )
    different = {"NUMBER": "${hydra:job.num}", "FOLDER": "${hydra:runtime.output_dir}", "RANK": "${lora.r}"}
    launch.runner.config.hydra.job.env_set = {"OURS": "in ${hydra:sweep.dir}", **different}
    launch.make([], set(), print, print)
    assert seen["ours"] == f"in {launch.folder}" and seen["variables"] == ("OURS",) and "OURS" not in os.environ


def test_jobs_are_shown_by_the_rate_that_ranks_them() -> None:
    by_wer = TrainConfig(scoring=ScoringConfig(rank_by="wer"))
    assert rank_by([Job(0, ["seed=x"], NO_CONFIG), job(1, "a", by_wer)]) == "wer"


def test_lines_of_jobs_say_what_the_store_has() -> None:
    jobs = [job(0, "a", TrainConfig()), job(1, "b", TrainConfig()), Job(2, ["seed=x"], NO_CONFIG)]
    lines = job_lines(jobs, {"b"})
    assert [(line.unit, line.reused) for line in lines] == [("a", True), ("b", False), ("#2", False)]
    assert [line.name for line in lines] == ["seed=0", "seed=1", "seed=x"]


def test_units_that_the_store_lacks_are_one_for_each_adapter(trial_config: Callable[..., TrainConfig]) -> None:
    greedy, other = trial_config(), trial_config(decoding={"text_temperature": 0.7})
    key = Trial(greedy).training_signature
    units, untrained = missing_units([job(0, key, greedy), job(1, key, other), job(2, key, greedy)])
    assert untrained == {key} and [unit.key for unit in units] == [BASE, key]
    assert [unit.jobs for unit in units] == [[greedy, other]] * 2, "each decoding setting once"
