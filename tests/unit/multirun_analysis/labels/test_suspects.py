"""The command from evaluations to the CSV: planted label errors are on top, and every column says what it should."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.labels.__main__ import main
from tests.unit.multirun_analysis.labels.conftest import manifest_line, plant_kinds, write_evaluation


def suspects(path: Path) -> list[dict[str, str]]:
    assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "Excel reads UTF-8 by its byte order mark"
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def found(made: Any, *options: str) -> list[dict[str, str]]:
    """All suspects of a planted multirun."""
    assert main([str(made.folder), "--most", "0", *options]) == 0
    return suspects(made.folder / "suspects.csv")


def precision(rows: list[dict[str, str]], wrong: frozenset[str], top: int) -> float:
    return sum(row["id"] in wrong for row in rows[:top]) / top


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_errors_are_at_the_top(planted: Callable[..., Any], seed: int) -> None:
    made = planted(seed)
    rows = found(made)
    assert len(rows) == 400 and [int(row["rank"]) for row in rows] == list(range(1, 401))
    assert len(made.wrong) == 20 and all(row["reasons"] for row in rows)
    assert precision(rows, made.wrong, 10) == 1.0
    assert precision(rows, made.wrong, 20) >= 0.9
    assert made.wrong <= {row["id"] for row in rows[:40]}


@pytest.mark.parametrize("seed", [1, 2])
def test_swapped_cut_and_subtle_errors_are_found(tmp_path: Path, seed: int) -> None:
    """The figures that the demo's corpus is held to (experiments/labels.md), with losses of single tokens."""
    kinds = plant_kinds(tmp_path, seed)
    assert main([str(tmp_path), "--most", "0", "--shown", "1"]) == 0
    rows = suspects(tmp_path / "suspects.csv")
    assert sum(row["id"] in kinds for row in rows[: len(kinds)]) >= 0.7 * len(kinds)
    subtle = {name for name, kind in kinds.items() if kind == "subtle"}
    found = [row for row in rows[: len(rows) // 5] if row["id"] in subtle]
    assert len(found) >= 5 / 14 * len(subtle)
    for row in found[:3]:
        assert row["suspect_word"] in row["reference"] and row["suspect_word"]
    cut = [row for row in rows[: len(kinds)] if kinds.get(row["id"]) == "truncated"]
    assert sum(row["suspect_word"] == "(end)" for row in cut) > len(cut) / 2


def test_two_signs_find_more_than_one(planted: Callable[..., Any]) -> None:
    """Losses that overlap, and adapters that mishear, are each less sure alone."""
    both, alone = 0.0, 0.0
    for seed in range(3):
        made = planted(seed, f"both{seed}")
        both += precision(found(made), made.wrong, 20)
        by_loss = sorted(made.rows[0], key=lambda row: -row["loss"])
        alone += precision([{"id": row["id"]} for row in by_loss], made.wrong, 20)
    assert both > alone


def test_without_losses_disagreement_alone_still_finds_most(
    planted: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = planted(4, losses=False)
    assert main([str(made.folder)]) == 0
    out = capsys.readouterr().out
    assert "signs: disagreement, speed, same audio" in out
    assert "note: no losses were written; evaluate with losses=true writes them" in out
    assert precision(suspects(made.folder / "suspects.csv"), made.wrong, 20) >= 0.8


def test_columns_for_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": f"u{n}", "repeat": 0, "reference": "今天下午开会", "hypothesis": "今天下午开会", "audio": None}
        | {"cer": 0.0, "recording": "monday", "seconds": 2.0 + n / 50, "loss": 0.1 + n / 1000}
        for n in range(40)
    ]
    rows[7] |= {"reference": "明天上午放假，不上班，好", "loss": 4.0}
    rows[9] |= {"seconds": 60.0, "loss": 0.2, "audio": "/a.wav", "start": 1.5, "end": 61.5, "channel": 1}
    write_evaluation(tmp_path / "0", "best", rows, cer=0.1)
    worse = [row | {"hypothesis": "今天下午开会吗"} for row in rows]
    write_evaluation(tmp_path / "1", "worse", worse, cer=0.2)
    out = tmp_path / "lists" / "monday.csv"
    assert main([str(tmp_path), "--out", str(out), "--most", "2"]) == 0
    first, second = suspects(out)
    assert list(first)[:12] == [
        *("rank", "id", "audio", "start", "end", "channel", "recording", "seconds"),
        *("reference", "best_hypothesis", "score", "reasons"),
    ]
    assert [second[key] for key in ("audio", "start", "end", "channel")] == ["/a.wav", "1.5000", "61.5000", "1"]
    assert [first[key] for key in ("audio", "start", "end", "channel")] == [""] * 4
    assert (first["rank"], first["id"], first["recording"], first["seconds"]) == ("1", "u7", "monday", "2.1400")
    assert first["reference"] == "明天上午放假，不上班，好" and first["best_hypothesis"] == "今天下午开会"
    assert first["loss"] == "4.0000" and float(first["chars_per_second"]) == pytest.approx(10 / 2.14, abs=1e-4)
    # Of the reference's 10 characters either transcript has but two, 天 and 午; between the two is 1 edit in 7. They
    # count by the squares of 0.9 and 0.8, and of two drawn so are two different ones in 49 of 100 pairs.
    apart = 2 * 0.81 * 0.64 / (0.81 + 0.64) ** 2
    assert float(first["disagreement"]) == pytest.approx(8 / 10 - apart / 7, abs=1e-4)
    assert (first["suspect_word"], first["decision"], first["correction"]) == ("", "", "")
    assert "1 of 2 adapters write the best hypothesis, 8 of 10 characters apart" in first["reasons"]
    assert "a loss of 4.00 nats per token is above that of 98.8% of the references" in first["reasons"]
    assert second["id"] == "u9" and "0.1 characters per second; " in second["reasons"]
    assert "monday.csv" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["=1+2", "+86电话", "-5度", "@某人", "＝1+2", "\t=1+2"])
def test_no_text_is_a_formula_in_a_spreadsheet(tmp_path: Path, text: str) -> None:
    row = {"id": text, "repeat": 0, "reference": text, "hypothesis": text, "audio": None, "cer": 0.0, "loss": 0.1}
    rows = [{**row, "seconds": 2.0}, {**row, "id": "u", "reference": f"好{text}", "seconds": 3.0, "loss": 4.0}]
    write_evaluation(tmp_path / "0", "one", rows)
    write_evaluation(tmp_path / "1", "other", [{**row, "hypothesis": "好"} for row in rows])
    assert main([str(tmp_path)]) == 0
    by_text = {row["reference"]: row for row in suspects(tmp_path / "suspects.csv")}
    assert by_text[f"'{text}"]["id"] == f"'{text}" and by_text[f"好{text}"]["best_hypothesis"] == f"'{text}"
    assert float(by_text[f"'{text}"]["disagreement"]) <= 0.5  # our own numbers may be negative, and are no text


def test_references_that_were_corrected_since_are_left_out(
    planted: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = planted(5, references=60)
    corrected = min(made.wrong)
    texts = {row["id"]: row["reference"] for row in made.rows[0][:50]} | {corrected: "改好了"}
    manifest = tmp_path / "train.tokens.jsonl"
    lines = [json.dumps(manifest_line(*one), ensure_ascii=False) for one in texts.items()]
    manifest.write_text("\n".join(["", *lines]) + "\n", encoding="utf-8")
    assert main([str(made.folder), "--manifest", str(manifest)]) == 0
    rows = suspects(made.folder / "suspects.csv")
    assert {row["id"] for row in rows} == texts.keys() - {corrected} and len(rows) == 49
    assert {row["recording"] for row in rows} == {"tuesday"}
    first = next(row for row in rows if row["id"] == "u0000")
    assert first["line"] == "2"
    out = capsys.readouterr().out
    assert "1 references have another text in the manifest by now" in out
    assert "10 references are no longer in the manifest" in out


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda tmp: None, "is not a folder"),
        (lambda tmp: (tmp / "x").mkdir(), "holds no trial folder"),
        (lambda tmp: (tmp / "x" / ".hydra").mkdir(parents=True), "holds no finished evaluation"),
    ],
)
def test_without_input_the_error_names_the_command_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare: Callable[[Path], Any], said: str
) -> None:
    prepare(tmp_path)
    assert main([str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert said in error and "python -m kimi_audio_ft.evaluate -m adapter=" in error and "losses=true" in error


def test_one_adapter_needs_losses(planted: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    bare = planted(6, "bare", adapters=1, losses=False)
    assert main([str(bare.folder)]) == 2
    assert "one adapter without losses says too little" in capsys.readouterr().err
    made = planted(6, "made", adapters=1)
    assert main([str(made.folder)]) == 0
    assert "one adapter cannot agree with another" in capsys.readouterr().out
    assert precision(suspects(made.folder / "suspects.csv"), made.wrong, 20) >= 0.6


def test_folders_that_disagree_about_a_reference(
    planted: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = planted(7, "one"), planted(8, "other")
    assert main([str(one.folder), str(other.folder)]) == 2
    error = capsys.readouterr().err
    assert "other/0/utterances.jsonl" in error and "has another reference for 'u0000'" in error


def test_a_wrong_number_of_rows(planted: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(planted(9).folder), "--most", "-1"]) == 2
    assert "--most=-1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_never_imports_torch(planted: Callable[..., Any]) -> None:
    program = (
        "import sys; from multirun_analysis.labels.__main__ import main; main(sys.argv[1:]); "
        "sys.exit(str({'torch', 'transformers', 'wandb'} & set(sys.modules) or '') or 0)"
    )
    command = [sys.executable, "-c", program, str(planted(10, references=60).folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
