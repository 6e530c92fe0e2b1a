"""Rungs without any training (kept scores, finished curves, invalid configs); halving.json; a rung's table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from kimi_audio_ft import store
from kimi_audio_ft.config.train import ScoringConfig, TrainConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.sweep.compose import JobConfig
from kimi_audio_ft.sweep.halving import Candidate, RungResult
from kimi_audio_ft.sweep.halving_run import HalvingRecord, RungScore, num_steps, print_rung, train_until
from kimi_audio_ft.sweep.launch import Job
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.sweep_folder import record_fitting
from kimi_audio_ft.trial import Trial
from tests.unit.sweep.rates import SETTINGS, Rates, run_grid

Config = Callable[..., TrainConfig]


@dataclass
class Composed:
    """A launch whose jobs are composed already; it can train nothing."""

    jobs: list[Job]

    def compose(self, job_overrides: Any, first: int) -> list[Job]:
        return self.jobs


def job(config: TrainConfig | None, error: Exception | None = None) -> Job:
    trial = Trial(config) if config is not None else None
    plan = trial.plan if trial else None
    return Job(0, ["lora.r=2"], cast(JobConfig, None), trial=trial, plan=plan, error=error)


def judged(metric: str, until: int, *jobs: Job) -> list[RungResult]:
    launch: Any = Composed(list(jobs))
    return train_until(launch, [one.overrides for one in jobs], until, metric)


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "store"))


@pytest.fixture
def finished(trial_config: Config) -> Job:
    """A job whose adapter is in the store, with a validation at step 4 of its 8."""
    made = job(trial_config())
    assert made.key is not None and made.plan is not None
    identity = made.plan.evaluation

    def make(folder: Path) -> dict[str, Any]:
        rows = [{"step": 4, "split": split, "loss": loss} for split, loss in (("train", 9.0), ("val", 2.5))]
        write_jsonl(folder / "curves.jsonl", rows)
        return {"eval_identity": identity}

    store.find_or_make("adapter", made.key, make)
    return made


def test_loss_of_a_finished_adapter_is_on_its_curve(finished: Job) -> None:
    assert finished.key is not None
    assert judged("loss", 4, finished) == [RungResult(finished.key, 4, 2.5, None, True)]
    assert judged("loss", 3, finished)[0].score is None
    assert judged("cer", 4, finished) == [RungResult(finished.key, 4, None, None, True)]


def test_loss_on_another_evaluation_set_is_none(
    finished: Job, trial_config: Config, coded_manifests: Path, tmp_path: Path
) -> None:
    lines = (coded_manifests / "eval.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "fewer.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
    other = job(trial_config(data={"eval_manifest": str(tmp_path / "fewer.jsonl")}))
    assert other.key == finished.key
    assert judged("loss", 4, other)[0].score is None


def test_score_of_an_earlier_sweep_is_found_whatever_the_jobs_sample_with(trial_config: Config) -> None:
    before = job(trial_config(decoding={"text_temperature": 0.7, "repeats": 3}))
    now = job(trial_config(decoding={"text_temperature": 0.0}))
    assert before.trial is not None and before.key == now.key is not None
    RungScore(before.trial, 4, "cer").write(0.25)
    assert judged("cer", 4, now) == [RungResult(now.key, 4, 0.25, None, False)]


def test_scores_by_another_rate_are_others(trial_config: Config) -> None:
    of_cer, of_mer = (job(trial_config(scoring=ScoringConfig(rank_by=rate))) for rate in ("cer", "mer"))
    assert of_cer.trial and of_mer.trial and of_cer.key == of_mer.key  # nothing is trained again
    RungScore(of_cer.trial, 4, "cer").write(0.25)
    assert RungScore(of_mer.trial, 4, "cer").read() is None
    RungScore(of_mer.trial, 4, "cer").write(0.5)
    assert [one.score for one in judged("cer", 4, of_cer) + judged("cer", 4, of_mer)] == [0.25, 0.5]
    assert judged("cer", 4, of_mer)[0].rank_by == "mer"


def test_job_without_a_valid_config_is_out_by_itself(finished: Job) -> None:
    invalid = job(None, ConfigError("lora.r", 0, "must be 1 or more"))
    launch: Any = Composed([invalid, finished])
    assert num_steps(launch, [[], []]) == [0, 8]
    bad, good = judged("loss", 4, invalid, finished)
    assert bad == RungResult("", 4, None, "lora.r=0: must be 1 or more", False)
    assert good.score == 2.5


def test_another_sweeps_records_are_set_aside_ahead_of_the_first_rung(finished: Job, tmp_path: Path) -> None:
    """Later this sweep's own decisions would go with them."""
    record_fitting(tmp_path, 1.0)
    try:
        for ranks in ("lora.r=2,4", "lora.r=8,16"):
            asked = {"task": [ranks], "hydra": ["hydra.mode=MULTIRUN"]}
            SweepReport().on_multirun_start(
                OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "overrides": asked}})
            )
            judged("loss", 4, finished)
            (tmp_path / "halving.json").write_text(ranks, encoding="utf-8")
            SweepReport.record({0: (tmp_path / "0", [])})
            SweepReport.conclude_failed()
    finally:
        SweepReport.conclude_failed()
    [aside] = tmp_path.glob(".before-*")
    assert (aside / "halving.json").read_text(encoding="utf-8") == "lora.r=2,4"
    assert (tmp_path / "halving.json").read_text(encoding="utf-8") == "lora.r=8,16"


def test_other_applications_have_no_rungs() -> None:
    with pytest.raises(UserError, match="is no training of this package"):
        judged("cer", 4, job(None))


class Recorded:
    """Runs a sweep with its record in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "halving.json"
        self.record = HalvingRecord(folder, SETTINGS, 10)

    def run(self, *rates: str) -> dict[str, Any]:
        self.record.write(list(run_grid(Rates(), *rates, on_rung=self._rung).values()))
        return self.read()

    def _rung(self, everyone: Sequence[Candidate], rung: int) -> None:
        self.record.write(everyone)

    def read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8"))


def test_record_says_what_was_stopped_when_and_why(tmp_path: Path) -> None:
    document = Recorded(tmp_path).run("1", "2", "3", "4", "0")
    by_name = {entry["name"]: entry for entry in document["candidates"]}
    assert document["rungs"] == [0.25, 0.5] and document["jobs_in_grid"] == 10
    stopped = by_name["lr=1"]
    assert stopped["decision"] == "stopped" and stopped["rung"] == 1 and stopped["step"] == 10
    assert stopped["score"] == 0.1 and stopped["rank"] == 4 and stopped["jobs"] == 2
    assert stopped["signature"] == "a1.0" and stopped["reason"].startswith("rank 4 of 4 at step 10: CER 10.00 %")
    assert stopped["overrides"] == ["optim.lr=1", "decoding.text_temperature=0.0"]
    assert [rung["step"] for rung in by_name["lr=4"]["history"]] == [10, 20]
    assert by_name["lr=0"]["decision"] == "failed" and by_name["lr=0"]["score"] is None
    assert (document["steps_trained"], document["steps_of_all"]) == (10 + 20 + 40 + 40 + 10, 200)


def test_interrupted_record_keeps_its_times_when_it_goes_on(tmp_path: Path) -> None:
    first = Recorded(tmp_path)
    document = first.run("1", "2")
    for entry in document["candidates"]:
        entry["history"][0]["time"] = f"before {entry['name']}"
    document["candidates"][1]["history"][0]["score"] = 0.5  # was decided otherwise
    first.path.write_text(json.dumps(document), encoding="utf-8")
    times = [entry["time"] for entry in Recorded(tmp_path).run("1", "2")["candidates"]]
    assert times[0] == "before lr=1" and times[1].startswith("20")


def test_table_of_a_rung(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    run_grid(Rates(), "1", "2", "3", "0", on_rung=lambda everyone, rung: print_rung(everyone, rung, SETTINGS))
    first, second = capsys.readouterr().out.split("Rung 2")
    lines = first.splitlines()
    assert lines[0].startswith("Rung 1 of 2, step 10: 2 of 4 adapters continue")
    assert [line.split()[:2] for line in lines if "lr=" in line] == [
        ["1", "lr=3"], ["2", "lr=2"], ["3", "lr=1"], ["–", "lr=0"]
    ]  # fmt: skip
    assert "failed: loss is nan" in first and "at step 3" not in first
    assert "1 of 2 adapters continue" in second and "lr=1" not in second


def test_long_tables_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    rates = [str(rate) for rate in range(1, 51)]
    run_grid(Rates(), *rates, on_rung=lambda everyone, rung: print_rung(everyone, rung, SETTINGS))
    assert "... and 10 more, all in halving.json" in capsys.readouterr().out
