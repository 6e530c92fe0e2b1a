"""What a rung knows without training: earlier scores, finished adapters' curves, configs that are not valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from kimi_audio_ft import store
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.sweep.halving import RungResult
from kimi_audio_ft.sweep.halving_run import _Record, num_steps, train_until
from kimi_audio_ft.sweep.launch import Job
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


@dataclass
class Composed:
    """A launch whose jobs are composed already; it can train nothing."""

    jobs: list[Job]

    def compose(self, job_overrides: Any, first: int) -> list[Job]:
        return self.jobs


def job(config: TrainConfig | None, error: Exception | None = None) -> Job:
    key = Trial(config).training_signature if config is not None else None
    return Job(0, ["lora.r=2"], OmegaConf.create(), config, key, error)


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
    assert made.key is not None and made.settings is not None
    identity = Trial(made.settings).evaluation.identity

    def make(folder: Path) -> dict[str, Any]:
        rows = [{"step": 4, "split": split, "loss": loss} for split, loss in (("train", 9.0), ("val", 2.5))]
        write_jsonl(folder / "curves.jsonl", rows)
        return {"eval_identity": identity}

    store.find_or_make("adapter", made.key, make)
    return made


def test_loss_of_a_finished_adapter_is_on_its_curve(finished: Job) -> None:
    assert finished.key is not None
    assert judged("loss", 4, finished) == [RungResult(finished.key, 4, 8, 2.5, None, True)]
    assert judged("loss", 3, finished)[0].score is None
    assert judged("cer", 4, finished) == [RungResult(finished.key, 4, 8, None, None, True)]


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
    assert before.settings is not None and before.key == now.key is not None
    _Record(before.settings, before.key, 4, "cer").write(0.25)
    assert judged("cer", 4, now) == [RungResult(now.key, 4, 8, 0.25, None, False)]


def test_job_without_a_valid_config_is_out_by_itself(finished: Job) -> None:
    invalid = job(None, ConfigError("lora.r", 0, "must be 1 or more"))
    launch: Any = Composed([invalid, finished])
    assert num_steps(launch, [[], []]) == [0, 8]
    bad, good = judged("loss", 4, invalid, finished)
    assert bad == RungResult("", 4, 0, None, "lora.r=0: must be 1 or more", False)
    assert good.score == 2.5


def test_other_applications_have_no_rungs() -> None:
    with pytest.raises(UserError, match="is no training of this package"):
        judged("cer", 4, job(None))
