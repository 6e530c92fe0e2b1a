"""The worst utterances, with what differs marked."""

from __future__ import annotations

import math

from multirun_analysis import load_sweep, write_report
from multirun_analysis.report.utterances import Piece, mark, shortened, worst_utterances


def test_differences_are_marked_on_both_sides() -> None:
    left, right = mark("七千万元", "七十万了元")
    assert left == [Piece("equal", "七"), Piece("replace", "千"), Piece("equal", "万"), Piece("equal", "元")]
    expected = [("equal", "七"), ("replace", "十"), ("equal", "万"), ("insert", "了"), ("equal", "元")]
    assert [(piece.kind, piece.text) for piece in right] == expected
    assert mark("嗯", "") == ([Piece("delete", "嗯")], [])


def test_worst_utterances_come_first_once_each_and_without_the_exact_ones(sweep) -> None:
    folder = sweep.trial(0)
    line = {"reference": "你好", "audio": None}
    sweep.write_lines(
        folder / "utterances.jsonl",
        [
            line | {"id": "a", "repeat": 0, "hypothesis": "你", "cer": 0.5},
            line | {"id": "a", "repeat": 1, "hypothesis": "", "cer": 1.0},
            line | {"id": "b", "repeat": 0, "hypothesis": "你好", "cer": 0.0},
            line | {"id": "c", "repeat": 0, "hypothesis": "您好", "cer": 0.5},
        ],
    )
    worst = worst_utterances(load_sweep(sweep.folder).sweep.trials[0])
    assert [(mistake.identity, mistake.cer) for mistake in worst] == [("a", 1.0), ("c", 0.5)]
    assert worst[0].hypothesis == [] and not math.isnan(worst[0].cer)


def test_older_rows_without_a_rate_or_a_text_are_told_too(sweep) -> None:
    rows = [
        {"id": "a", "reference": " 你好\n", "hypothesis": None},
        {"id": "b", "reference": "你好", "hypothesis": "你"},
        {"id": "c", "reference": "e\u0301", "hypothesis": "é"},
    ]
    sweep.write_lines(sweep.trial(0) / "utterances.jsonl", rows)
    comparison = load_sweep(sweep.folder)
    assert comparison.statistics.utterances == 3
    worst = worst_utterances(comparison.best.trial)
    assert [(mistake.identity, mistake.cer) for mistake in worst] == [("a", 1.0), ("b", 0.5)]
    assert worst[0].reference == [Piece("delete", "你好")] and worst[0].hypothesis == []


def test_a_text_without_end_is_cut_and_says_so(sweep) -> None:
    row = {"id": "a", "repeat": 0, "reference": "今天", "hypothesis": "今天" + "天气" * 5000, "cer": 5000.0}
    sweep.write_lines(sweep.trial(0) / "utterances.jsonl", [row])
    (mistake,) = worst_utterances(load_sweep(sweep.folder).best.trial)
    *shown, cut = mistake.hypothesis
    assert sum(len(piece.text) for piece in shown) == 400 and cut == Piece("cut", "9,602")
    assert shortened([Piece("equal", "你好")], most=2) == [Piece("equal", "你好")]
    page = write_report(sweep.folder).html.read_text(encoding="utf-8")
    assert "… 9,602 more characters" in page and "天气" * 1000 not in page
