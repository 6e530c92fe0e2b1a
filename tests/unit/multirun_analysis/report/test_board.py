"""The leaderboard's rows; the user's terms: every trial's recall and precision, on the page and in the tables."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis import load_sweep, write_report
from multirun_analysis.analysis import Analysis
from multirun_analysis.report.board import Board, set_table, term_table
from tests.report_page import body, page_of, section
from tests.synthetic_sweep import write_ranks
from tests.unit.multirun_analysis.conftest import heard


def test_spreads_are_over_the_repeats(synthetic: Analysis) -> None:
    for row in Board(synthetic).rows:
        if row.trial.params["decoding.text_temperature"] == 0.0:
            assert row.spread is None
        else:
            assert len(row.trial.repeats) == 3 and row.spread == pytest.approx(row.trial.record["cer_std"])


def test_combinations_are_compared_with_the_base_of_their_trial(tmp_path: Path) -> None:
    """Where the base is first it stands before the trial that it was decoded beside, and has that one's name."""
    analysis = load_sweep(write_ranks(tmp_path, {8: 4.0, 16: 4.1}, temperatures=(0.3,), utterances=60))
    first, second = analysis.rows[:2]
    assert first.trial.is_base and second.trial.name == first.trial.name
    assert Board(analysis).combined and all(
        row.gain == 1 - row.rate / first.trial.rate for row in Board(analysis).combined
    )


@pytest.fixture
def told(sweep: Any, change: Any) -> Any:
    """Three trials and two bases; the second trial samples twice, so its counts are of two decodings."""
    greedy = {"5G": heard(2, 1, 1), "二级市场": heard(8, 5, 4), "<b>": heard(0, 0, 0)}
    sampled = {"5G": heard(4, 4, 4), "二级市场": heard(16, 4, 3), "<b>": heard(0, 3, 0)}
    sweep.trial(0, rank=8, cer=0.2, terms=greedy)
    sweep.trial(1, rank=8, temperature=0.3, cer=0.1, cer_repeats=[0.1, 0.1], terms=sampled)
    sweep.trial(2, rank=32, cer=0.3, terms=greedy | {"5G": heard(2, 2, 2)})
    for number, found in ((0, 0), (1, 2)):
        change(sweep.folder / str(number) / "baseline.json", terms=greedy | {"二级市场": heard(8, 8, found)})
    return sweep


def test_every_trial_and_base_has_its_column_in_the_order_of_the_leaderboard(told: Any) -> None:
    table = term_table(load_sweep(told.folder))
    assert table is not None and table.terms == ["二级市场", "5G", "<b>"] and table.spoken == [8, 2, 0]
    assert [(trial.name, trial.is_base) for trial in table.trials] == [
        *(("1", False), ("0", False), ("2", False), ("0", True), ("1", True)),
    ]
    best, greedy = table.figures[:2]
    assert best == ([18.8, 100.0, None], [75.0, 100.0, 0.0])
    assert greedy == ([50.0, 50.0, None], [80.0, 100.0, None])
    assert (table.first, table.trials[table.second].is_base, table.second) == (0, True, 4)  # of its temperature
    assert (table.more_terms, table.more_trials) == (0, 0)


def test_the_page_shows_two_trials_and_holds_all(told: Any) -> None:
    page = body(page_of(told.folder))
    terms = section(page, "terms")
    cells = "".join(f'<td class="number">{figure}</td>' for figure in (8, "18.8", "75.0", "25.0", "25.0"))
    assert f'<th scope="row">二级市场</th>{cells}' in terms
    assert '<th scope="row">&lt;b&gt;</th><td class="number">0</td><td class="number">–</td>' in terms
    figures = json.loads(re.findall(r'data-figures="([^"]*)"', terms)[0])
    assert figures[2] == [[50.0, 100.0, None], [80.0, 100.0, None]] and len(figures) == 5
    assert re.findall(r'<option value="(\d)" selected>', terms) == ["0", "4"] and terms.count("<select ") == 2
    assert "<small>1: lora.r=8 temperature=0.3</small>" in terms
    assert '<a href="#terms">Your terms</a>' in page


def test_a_trial_without_mistakes_still_shows_its_terms(sweep: Any) -> None:
    sweep.trial(0, cer=0.0, baseline=False, terms={"5G": heard(2, 2, 2)}, categories={})
    table = term_table(load_sweep(sweep.folder))
    assert table is not None and (table.first, table.second) == (0, 0)
    page = body(page_of(sweep.folder, "zh"))
    assert '<section id="terms">' in page and "各术语的召回率和精确率" in page


def test_a_sweep_without_terms_says_nothing_of_them(sweep: Any) -> None:
    sweep.trial(0, terms={})
    paths = write_report(sweep.folder)
    assert "Your terms" not in body(paths.html.read_text(encoding="utf-8"))
    assert "terms." not in paths.csv.read_text(encoding="utf-8")


def test_every_trials_terms_are_in_the_tables(told: Any) -> None:
    paths = write_report(told.folder)
    document = json.loads(paths.json.read_text(encoding="utf-8"))
    assert [trial["terms"]["5G"]["recall"] for trial in document["trials"]] == [0.5, 1.0, 1.0]
    assert document["baselines"][1]["terms"]["二级市场"]["found"] == 2
    rows = list(csv.DictReader(io.StringIO(paths.csv.read_text(encoding="utf-8"))))
    assert [row["terms.5G.recall"] for row in rows[:3]] == ["0.5", "1.0", "1.0"]
    assert rows[0]["terms.<b>.recall"] == "" and rows[1]["terms.<b>.precision"] == "0.0"
    assert list(rows[0])[-6].startswith("terms.")


def test_what_would_make_the_page_large_is_left_to_the_tables(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multirun_analysis.report.board.MOST_TERMS", 2)
    monkeypatch.setattr("multirun_analysis.report.board.MOST_FIGURES", 8)
    table = term_table(load_sweep(told.folder))
    assert table is not None and table.terms == ["二级市场", "5G"] and (table.more_terms, table.more_trials) == (1, 2)
    assert [trial.name for trial in table.trials] == ["1", "0", "1"]  # the best two and the best one's base
    page = page_of(told.folder)
    assert "1 further term is in trials.json. 2 further trials are in trials.json." in page


def of_sets(short: float, long: float) -> dict[str, dict[str, float]]:
    rates = {"short": (short, 12), "long": (long, 1)}
    return {
        name: {"cer": cer, "wer": 0.5, "mer": cer, "normalised_cer": cer, "num_references": count}
        for name, (cer, count) in rates.items()
    }


def test_several_evaluation_sets_have_a_table_and_columns(sweep: Any) -> None:
    sweep.trial(0, rank=8, cer=0.2, sets=of_sets(0.1, 0.3))
    sweep.trial(1, rank=2, cer=0.1, sets=of_sets(0.05, 0.15))
    analysis = load_sweep(sweep.folder)
    table = set_table(analysis)
    assert table is not None and table.names == {"short": 12, "long": 1} and table.more == 0
    assert [trial.name for trial in table.trials] == ["1", "0"], "as in the leaderboard; the base has no sets here"
    page = body(page_of(sweep.folder))
    shown = section(page, "sets")
    assert '<button type="button" title="12 references">short</button>' in shown and 'title="1 reference"' in shown
    assert re.findall(r'<td class="number">([^<]*)</td>', shown) == [
        "10.00",
        "5.00",
        "15.00",
        "20.00",
        "10.00",
        "30.00",
    ]
    assert '<a href="#sets">' in page
    write_report(sweep.folder)
    with (sweep.folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["sets.short.cer"], row["sets.long.cer"], row["sets.long.wer"]) for row in rows[:2]] == [
        *(("0.1", "0.3", "0.5"), ("0.05", "0.15", "0.5")),
    ]
    trials = json.loads((sweep.folder / "trials.json").read_text(encoding="utf-8"))["trials"]
    assert trials[0]["sets"] == of_sets(0.1, 0.3)


def test_one_evaluation_set_has_neither(told: Any) -> None:
    assert set_table(load_sweep(told.folder)) is None
    page = page_of(told.folder)
    assert 'id="sets"' not in page and "#sets" not in page


def test_what_was_trained_on_and_evaluated_is_said(sweep: Any) -> None:
    for number, count in enumerate((3, 7, 0)):
        groups = {"groups": ["m1", "m2"]} if count == 7 else {"groups": []}
        sweep.trial(number, rank=2**number, overlap={"utterances": count, **groups})
    page = body(page_of(sweep.folder))
    assert "In 2 trials, up to 7 of " in page and "evaluated utterances were trained on (data.allow_overlap)" in page
    assert "Training and evaluation share 2 groups (m1 and m2)" in page
