"""What a sweep stopped early, read from its halving.json into the report, the tables and the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kimi_audio_ft.errors import DataError
from multirun_analysis import load_sweep, print_leaderboard, write_report
from multirun_analysis.sweep import read_halving


def entry(name: str, decision: str, step: int, score: float | None, rank: int | None, reason: str) -> dict[str, Any]:
    return {
        "name": name,
        "decision": decision,
        "step": step,
        "num_steps": 120,
        "score": score,
        "rank": rank,
        "reason": reason,
        "time": "2026-11-24T19:00:00+0000",
        "jobs": 4,
        "signature": f"a{name}",
        "history": [],
    }


def write(folder: Path, metric: str = "cer", **changes: Any) -> None:
    candidates = [
        entry("r=2", "stopped", 30, 0.9, 3, "rank 3 of 3 at step 30: CER 90.00 %; the best 2 go on"),
        entry("r=4", "failed", 30, None, None, "loss is nan <b>"),
        entry("r=8", "continued", 60, 0.5, 1, "rank 1 of 2"),
        entry("r=16", "stopped", 60, 0.6, 2, "rank 2 of 2 at step 60"),
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
    page = write_report(halved).html.read_text(encoding="utf-8")
    section = page.partition('<section id="stopped-early">')[2].partition("</section>")[0]
    rows = section.split("<tr>")[2:]
    assert [row.split("<td>")[1].partition("<")[0] for row in rows] == ["r=16", "r=2", "r=4"]
    assert "30 of 120" in rows[1] and "90.00" in rows[1] and "the best 2 go on" in rows[1]
    assert "failed" in rows[2] and "loss is nan &lt;b&gt;" in rows[2]
    assert "r=8" not in section
    assert "240 of 480 steps were enough (50 %)" in section


def test_loss_is_written_as_a_loss(sweep: Any) -> None:
    sweep.trial(0)
    write(sweep.folder, metric="loss")
    section = write_report(sweep.folder).html.read_text(encoding="utf-8").partition("Stopped early")[2]
    assert "0.9000" in section and "validation loss at that step" in section


def test_trials_json_holds_the_whole_record(halved: Path) -> None:
    kept = json.loads(write_report(halved).json.read_text(encoding="utf-8"))["halving"]
    assert kept == json.loads((halved / "halving.json").read_text(encoding="utf-8"))


def test_terminal_says_it_in_one_line_and_names_failures(halved: Path) -> None:
    out = io.StringIO()
    print_leaderboard(load_sweep(halved), Console(file=out, width=300))
    lines = out.getvalue().splitlines()
    assert (
        "Successive halving by cer: of 4 adapters, 1 stopped at step 30, 1 stopped at step 60, 1 failed; "
        "240 of 480 steps were enough (50 %)."
    ) in [line.strip() for line in lines]
    assert any(line.startswith("FAILED at step 30 (r=4): loss is nan") for line in lines)


def test_nothing_stopped(sweep: Any) -> None:
    write(sweep.folder, candidates=[], steps_of_all=0)
    halving = read_halving(sweep.folder)
    assert halving is not None
    assert halving.in_words() == "Successive halving by cer: of 0 adapters, none stopped."


@pytest.mark.parametrize("broken", [{"candidates": [{}]}, {"candidates": 3}, {"metric": None, "candidates": [[]]}])
def test_record_of_another_shape_is_named(sweep: Any, broken: dict[str, Any]) -> None:
    write(sweep.folder, **broken)
    with pytest.raises(DataError, match=r"halving\.json: is no record of successive halving"):
        read_halving(sweep.folder)
