"""A sweep recorded by real offline W&B runs, read back from their files and compared with the sweep's own tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kimi_audio_ft.files import read_jsonl
from tests.integration.conftest import REPOSITORY, SHORT, Workplace
from tests.offline_wandb import StoredRun, offline_runs
from tests.trials_json import hypotheses_of, scores_of, trials_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sweep(place: Workplace) -> Path:
    """Two temperatures of one adapter, with W&B offline."""
    points = ("lora.r=2", "decoding.text_temperature=0.0,0.7", "logger=wandb", "logger.mode=offline")
    return place.sweep("in_wandb", *points, "logger.project=nightly")


@pytest.fixture(scope="module")
def trials(sweep: Path) -> list[dict[str, Any]]:
    return trials_of(sweep)


@pytest.fixture(scope="module")
def runs(sweep: Path, trials: list[dict[str, Any]]) -> list[StoredRun]:
    """The run of each trial, in their order."""
    return [run for trial in trials for run in offline_runs(sweep / trial["name"])]


def test_config_and_summary_are_those_of_trials_json(
    trials: list[dict[str, Any]], runs: list[StoredRun], sweep: Path
) -> None:
    assert len(runs) == len(trials) == 2
    for trial, run in zip(trials, runs, strict=True):
        assert {key: run.config[key] for key in trial["params"]} == trial["params"]
        assert run.config["lora"]["r"] == trial["params"]["lora.r"]  # as W&B's own filters look it up
        named = {"scores": "{}", "normalised": "{}_normalised"}
        figures = {
            form.format(name): value
            for group, form in named.items()
            for name, value in trial[group].items()
            if isinstance(value, int | float)
        }
        assert {"cer", "cer_normalised", "wer", "mer", "exact_match", "deletions"} <= figures.keys()
        assert {key: run.summary[key] for key in figures} == figures
        for key in ("signature", "eval_identity", "train_reused"):
            assert run.config[f"record.{key}"] == trial[key]
        assert {run.summary[key] for key in ("num_references",)} == {trial["num_references"]}
        lowest = run.summary["val/loss"]["min"]
        assert lowest == min(loss for _, loss in run.curve("val/loss"))
        own = [key for key in run.summary if not key.startswith(("_", "utterances", "train/", "val/"))]
        assert all(isinstance(run.summary[key], int | float) for key in own), own


def test_every_number_of_a_trials_scores_is_in_its_summary(
    trials: list[dict[str, Any]], runs: list[StoredRun], sweep: Path
) -> None:
    """By the file itself, whatever figures scoring adds to it."""
    for trial, run in zip(trials, runs, strict=True):
        scores = scores_of(sweep / trial["name"])
        numbers = {
            key: value
            for key, value in scores.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        assert {key: run.summary.get(key) for key in numbers} == numbers
        counts = {f"errors/{name}": count for name, count in scores.get("categories", {}).items()}
        assert {key: run.summary.get(key) for key in counts} == counts


def test_all_runs_of_a_sweep_are_one_group(runs: list[StoredRun], trials: list[dict[str, Any]], sweep: Path) -> None:
    report = offline_runs(sweep / "report")
    assert {run.run.run_group for run in [*runs, *report]} == {"in_wandb"}
    assert {run.run.project for run in [*runs, *report]} == {"nightly"}
    assert [run.run.job_type for run in [*runs, *report]] == ["trial", "trial", "report"]
    names = [f"{trial['name']}: temperature={trial['params']['decoding.text_temperature']}" for trial in trials]
    assert [run.run.display_name for run in runs] == names, "its number, and what tells siblings apart"


def test_curves_and_transcripts(runs: list[StoredRun], trials: list[dict[str, Any]], sweep: Path) -> None:
    for trial, run in zip(trials, runs, strict=True):
        rows = read_jsonl(sweep / trial["name"] / "curves.jsonl")
        for split in ("train", "val"):
            wanted = [(row["step"], row["loss"]) for row in rows if row["split"] == split]
            assert run.curve(f"{split}/loss") == wanted and wanted
        assert run.curve("train/tokens_per_second"), "only a run that is open while its adapter trains has it"
        heard = set(hypotheses_of(sweep / trial["name"]).items())
        table = run.table("utterances")
        identity, hypothesis = table["columns"].index("id"), table["columns"].index("hypothesis")
        assert {(row[identity], row[hypothesis]) for row in table["data"]} == heard


def test_agents_of_a_wandb_sweep_share_the_store(place: Workplace) -> None:
    """The sweep file of docs/wandb.md, its command line as W&B's agent writes it, in three processes at a time."""
    given = yaml.safe_load((REPOSITORY / "docs" / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    assert given["command"][:4] == ["${env}", "python", "-m", "kimi_audio_ft.train"]
    assert given["command"][-1] == "${args_no_hyphens}" and given["metric"]["name"] == "rate"
    before = place.products("adapter")
    drawn = [dict(zip(given["parameters"], values, strict=True)) for values in ((4, 0.002, 0.0), (4, 0.002, 0.3))]
    agents = []
    for number, parameters in enumerate([*drawn, drawn[0]]):
        words = [word for word in given["command"][4:-1] if word != "data=my/data"]
        words += [f"{name}={value}" for name, value in parameters.items()]
        options = (*SHORT, f"hydra.run.dir=agents/{number}", "logger.mode=offline", *words)
        variables = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": f"run{number}", "WANDB_PROJECT": "agents"}
        agents.append(place.fork("kimi_audio_ft.train", *options, prints=f"agent{number}", **variables))
    for agent in agents:
        ended = agent.wait()
        assert ended.code == 0, ended.err
    assert len(place.products("adapter").keys() - before.keys()) == 1, "all three have one adapter"
    runs = [run for number in range(3) for run in offline_runs(place.folder / "agents" / str(number))]
    assert [run.run.run_id for run in runs] == ["run0", "run1", "run2"]
    assert {(run.run.project, run.run.run_group) for run in runs} == {("agents", "")}
    assert all(run.curve("train/loss") for run in runs), "also where another process has trained"
    assert runs[0].summary["rate"] == runs[2].summary["rate"]


def test_the_report_is_an_artifact_and_the_leaderboard_a_table(sweep: Path, trials: list[dict[str, Any]]) -> None:
    (run,) = offline_runs(sweep / "report")
    for name in ("report.html", "trials.csv", "trials.json"):
        assert run.artifact[name].read_bytes() == (sweep / name).read_bytes()
    table = run.table("leaderboard")
    kind, cer = table["columns"].index("kind"), table["columns"].index("cer")
    logged = sorted(row[cer] for row in table["data"] if row[kind] == "trial")
    assert logged == sorted(trial["scores"]["cer"] for trial in trials)
