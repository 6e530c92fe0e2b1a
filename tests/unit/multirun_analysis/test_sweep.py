"""Trial folders are read as they are, finished or not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import read_json_object, write_json
from multirun_analysis import load_sweep, write_report
from multirun_analysis.compare import compare
from multirun_analysis.messages import ENGLISH
from multirun_analysis.sweep import Status, collect, read_halving
from multirun_analysis.words import effort, halving_in_words, recommendation
from tests.report_page import page_of, printed, section


def test_a_finished_sweep_is_read_in_the_order_of_its_job_numbers(sweep_24: Path) -> None:
    found = collect(sweep_24)
    assert [trial.name for trial in found.trials] == [str(number) for number in range(24)]
    assert {trial.status for trial in found.trials} == {Status.COMPLETED}
    first = found.trials[0]
    assert first.params["lora.r"] == 2
    assert first.overrides == {"lora.r": 2, "optim.lr": 0.001, "decoding.text_temperature": 0.0}
    assert first.strict is not None and first.normalised is not None
    assert first.normalised.cer == pytest.approx(0.9 * first.strict.cer)
    assert len(first.curves) == 155 and len(first.utterances) == 4


def test_bases_are_kept_once_per_decoding_setting(sweep_24: Path) -> None:
    temperatures = [base.params["decoding.text_temperature"] for base in collect(sweep_24).baselines]
    assert temperatures == [0.0, 0.1, 0.2, 0.3]


def test_a_seed_tells_sampled_bases_apart_but_not_greedy_ones(sweep, change: Callable[..., None]) -> None:
    for number, (temperature, seed) in enumerate([(0.0, 0), (0.0, 1), (0.3, 0), (0.3, 1)]):
        folder = sweep.trial(number, temperature=temperature)
        params = sweep.params(8, 1e-3, temperature) | {"seed": seed}
        change(folder / "baseline.json", params=params)
    seeds = [
        (base.params["decoding.text_temperature"], base.params["seed"]) for base in collect(sweep.folder).baselines
    ]
    assert seeds == [(0.0, 0), (0.3, 0), (0.3, 1)]


def test_the_same_trial_twice_is_one_entry(sweep, change: Callable[..., None]) -> None:
    """A search repeats a point, and ``3e-3,0.003`` is one value; another adapter or option is another trial."""
    for number in range(4):
        folder = sweep.trial(number)
        change(folder / "scores.json", signature="a1" if number < 3 else "a2", transcript_signatures=["t1"])
        rate = ("3e-3", "0.003", "0.003", "0.003")[number]
        more = "decoding.text_top_k=3" if number == 2 else "decoding.text_top_k=5"
        (folder / ".hydra" / "overrides.yaml").write_text(f"- optim.lr={rate}\n- {more}\n", encoding="utf-8")
    found = collect(sweep.folder)
    assert [trial.name for trial in found.trials] == ["0", "2", "3"] and found.repeated == 1
    assert "1 more is the same as one of these" in effort(compare(found))


def test_failed_and_unfinished_trials_are_listed_with_what_is_known(sweep) -> None:
    sweep.trial(0)
    sweep.fail(1, rate=0.1)
    sweep.start(2, 32, 0.1, 0.3)
    found = collect(sweep.folder)
    assert [trial.status for trial in found.trials] == [Status.COMPLETED, Status.FAILED, Status.UNFINISHED]
    assert found.failed[0].record["message"] == "loss is nan at step 12"
    assert found.unfinished[0].params == {"lora.r": 32, "optim.lr": 0.1, "decoding.text_temperature": 0.3}


def test_the_multirun_command_is_put_together_from_hydras_record(sweep_24: Path) -> None:
    assert collect(sweep_24).command == (
        "python -m kimi_audio_ft.train -m lora.r=2,8,32 optim.lr=0.001,0.003 "
        "decoding.text_temperature=0.0,0.1,0.2,0.3 hydra.sweep.dir=x"
    )


@pytest.mark.parametrize("written", ["", "hydra: null", "[]", "hydra:\n  overrides: {task: [a=1]}"])
def test_a_multirun_yaml_of_another_shape_means_no_command(sweep, written: str) -> None:
    sweep.trial(0)
    (sweep.folder / "multirun.yaml").write_text(written, encoding="utf-8")
    assert collect(sweep.folder).command is None


def test_folders_that_are_no_trials_are_passed_over(sweep) -> None:
    sweep.trial(0)
    (sweep.folder / "wandb").mkdir()
    (sweep.folder / "notes.txt").write_text("x", encoding="utf-8")
    assert [trial.name for trial in collect(sweep.folder).trials] == ["0"]


def test_the_folder_of_a_single_run_is_a_sweep_of_one(sweep) -> None:
    folder = sweep.trial(0)
    assert [trial.folder for trial in collect(folder).trials] == [folder]


def test_overrides_are_typed_as_hydra_types_them(sweep) -> None:
    sweep.trial(0, extra_overrides=("+a.b=1e-3", "c='x, y'", "~d", "hydra.job.name=z", "flag=true"))
    overrides = collect(sweep.folder).trials[0].overrides
    assert overrides["a.b"] == 0.001 and overrides["c"] == "x, y" and overrides["flag"] is True
    assert "hydra.job.name" not in overrides


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"scores\.json:1: is not JSON"),
        (b"[1]", "holds a list, expected a JSON object"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'{"params": {}, "cer": NaN}', "cer=nan must be a finite number"),
        (b'{"params": {}}', "cer=None must be a finite number"),
        (b'{"cer": 0.1}', "params=None must be an object"),
    ],
)
def test_an_unusable_scores_file_is_named_with_its_fault(sweep, content: bytes, message: str) -> None:
    folder = sweep.trial(0)
    (folder / "scores.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        collect(sweep.folder)


def test_folders_without_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        collect(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no trial folder"):
        collect(tmp_path)


def test_records_may_be_larger_than_what_is_read(sweep) -> None:
    sweep.trial(0, new_metric=1)
    assert collect(sweep.folder).trials[0].record["new_metric"] == 1


# What a sweep stopped early, read from its halving.json into the report, the tables and the terminal.


def entry(name: str, **more: Any) -> dict[str, Any]:
    always = {"num_steps": 120, "time": "2026-11-24T19:00:00+0000", "jobs": 4, "history": []}
    given = [f"lora.{name}", "optim.lr=0.001", "decoding.text_temperature=0.0"]
    return {"name": name, "signature": f"a{name}", "overrides": given, **always, **more}


def write(folder: Path, metric: str = "cer", **changes: Any) -> None:
    told = "rank 3 of 3 at step 30: CER 90.00 %; the best 2 go on"
    candidates = [
        entry("r=2", decision="stopped", step=30, score=0.9, rank=3, reason=told),
        entry("r=4", decision="failed", step=30, score=None, rank=None, reason="loss is nan <b>"),
        entry("r=8", decision="continued", step=60, score=0.5, rank=1, reason="rank 1 of 2"),
        entry("r=16", decision="stopped", step=60, score=0.6, rank=2, reason="rank 2 of 2 at step 60"),
    ]
    document = {"metric": metric, "steps_trained": 240, "steps_of_all": 480, "candidates": candidates, **changes}
    (folder / "halving.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def halved(sweep: Any) -> Path:
    """A sweep of which one trial was left."""
    sweep.trial(0)
    write(sweep.folder)
    return sweep.folder


def test_sweeps_that_stop_nothing_say_nothing_of_it(sweep_24: Path) -> None:
    assert read_halving(sweep_24) is None
    paths = write_report(sweep_24)
    assert "Stopped early" not in paths.html.read_text(encoding="utf-8")
    assert json.loads(paths.json.read_text(encoding="utf-8"))["halving"] is None


def test_report_lists_what_was_stopped_when_and_why(halved: Path) -> None:
    stopped = section(page_of(halved), "stopped-early")
    rows = stopped.split("<tr>")[2:]
    assert [row.split("<td>")[1].partition("<")[0] for row in rows] == ["r=16", "r=2", "r=4"]
    assert "30 of 120" in rows[1] and "90.00" in rows[1] and "the best 2 go on" in rows[1]
    assert "failed" in rows[2] and "loss is nan &lt;b&gt;" in rows[2]
    assert "r=8" not in stopped
    assert "240 of 480 steps were enough (50 %)" in stopped


def test_the_leaderboard_keeps_the_swept_columns_and_what_was_stopped(halved: Path) -> None:
    analysis = load_sweep(halved)
    assert analysis.swept == ["lora.r"] and not analysis.charted
    said = recommendation(analysis, ENGLISH)
    assert said.startswith("Recommended: trial 0 (lora.r=8), CER") and "2 others were stopped early" in said
    table = section(page_of(halved), "board").partition('<tbody class="stopped">')[2].partition("</tbody>")[0]
    cells = [re.sub("<[^>]+>", " ", row).split() for row in table.split("<tr>")[1:]]
    assert cells[0] == ["stopped", "–", "16", "60.00", "at", "step", "60", "of", "120,", "rank", "2"]
    assert cells[1] == ["stopped", "–", "2", "90.00", "at", "step", "30", "of", "120,", "rank", "3"]
    assert cells[2] == ["failed", "–", "4", "–", "at", "step", "30", "of", "120"]
    text = printed(analysis, width=120)
    assert re.search(r"stop +– +16 +60\.00", text) and re.search(r"fail +– +4 +–", text)


def test_loss_is_written_as_a_loss(sweep: Any) -> None:
    sweep.trial(0)
    write(sweep.folder, metric="loss")
    stopped = section(page_of(sweep.folder), "stopped-early")
    assert "0.9000" in stopped and "validation loss at that step" in stopped


def test_trials_json_holds_the_whole_record(halved: Path) -> None:
    kept = json.loads(write_report(halved).json.read_text(encoding="utf-8"))["halving"]
    assert kept == json.loads((halved / "halving.json").read_text(encoding="utf-8"))


def test_terminal_says_it_in_one_line_and_names_failures(halved: Path) -> None:
    lines = printed(load_sweep(halved), width=300).splitlines()
    assert (
        "Successive halving by cer: of 4 adapters, 1 stopped at step 30, 1 stopped at step 60, 1 failed; "
        "240 of 480 steps were enough (50 %)."
    ) in [line.strip() for line in lines]
    assert any(line.startswith("FAILED at step 30 (r=4): loss is nan") for line in lines)


def test_nothing_stopped(sweep: Any) -> None:
    write(sweep.folder, candidates=[], steps_of_all=0)
    halving = read_halving(sweep.folder)
    assert halving is not None
    assert halving_in_words(halving) == "Successive halving by cer: of 0 adapters, none stopped."


@pytest.mark.parametrize("broken", [{"candidates": [{}]}, {"candidates": 3}, {"metric": None, "candidates": [[]]}])
def test_record_of_another_shape_is_named(sweep: Any, broken: dict[str, Any]) -> None:
    write(sweep.folder, **broken)
    with pytest.raises(DataError, match=r"halving\.json: is no record of successive halving"):
        read_halving(sweep.folder)


def test_trials_of_a_nested_subdir_are_told_apart(sweep) -> None:
    """With hydra.sweep.subdir=${lora.r}/${seed} the last parts of two trials' folders are alike."""
    jobs = {}
    for number, rank in enumerate((4, 8)):
        folder = type(sweep)(sweep.folder / f"r{rank}").trial(0, rank=rank, cer=0.2 + number / 10)
        jobs[str(number)] = {"folder": f"r{rank}/0", "overrides": [f"lora.r={rank}"]}
        place = sweep.folder / "unseen" / "guards" / "general" / f"r{rank}" / "0"
        write_json(place / "scores.json", read_json_object(folder / "scores.json", "") | {"cer": 0.5 + number / 10})
    write_json(sweep.folder / "engine.json", {"jobs": jobs, "trials": 2})
    guard = {"manifest": "general.jsonl", "identity": "g", "trials": ["r4/0", "r8/0"]}
    write_json(sweep.folder / "unseen" / "record.json", {"test": None, "guards": {"general": guard}})
    found = load_sweep(sweep.folder)
    assert [(trial.name, trial.params["lora.r"]) for trial in found.sweep.trials] == [("r4/0", 4), ("r8/0", 8)]
    ((_, held),) = found.unseen.guards
    assert [(one.of.name, one.trial.cer) for one in held] == [("r4/0", 0.5), ("r8/0", 0.6)]
