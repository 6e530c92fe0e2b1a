"""Decisions on labels change the texts of their rows, drop rows, and leave every other row where it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.commands import PrepareConfig
from kimi_audio_ft.corpus.prepare import prepare
from kimi_audio_ft.errors import DataError
from tests.unit.corpus.test_prepare import record, write_csv

HEADER = ["id", "reference", "decision", "correction"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 recordings of 2 segments."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [["audio", "text", "meeting"]]
    for index in range(12):
        record(folder / f"u{index}.wav", seed=index)
        rows.append([f"u{index}.wav", f"-{index}度，对" if index == 3 else f"第{index}句", str(index // 2)])
    return write_csv(folder / "a.csv", rows)


def prepared(table: Path, out: Path, rows: list[list[str]] | None = None, **options: Any) -> dict[str, dict[str, str]]:
    """By split, the texts by id."""
    decisions = None if rows is None else str(write_csv(table.parent / "decisions.csv", rows, "utf-8-sig"))
    given: dict[str, Any] = {
        "eval_ratio": 0.3,
        "test_ratio": 0.0,
        "group_column": "meeting",
        "decisions": decisions,
        **options,
    }
    prepare(PrepareConfig(csv=str(table), out=str(out), **given))
    found = {}
    for split in ("train", "eval"):
        lines = map(json.loads, (out / f"{split}.jsonl").read_text(encoding="utf-8").splitlines())
        found[split] = {line["id"]: line["conversation"][-1]["content"] for line in lines}
    return found


def test_rows_are_corrected_and_dropped_and_no_other_moves(table: Path, tmp_path: Path) -> None:
    before = prepared(table, tmp_path / "before")
    held_out = next(iter(before["eval"]))
    rows = [
        HEADER,
        ["u0", "第0句", "correct", "第十句"],
        ["u1", "第1句", "keep", ""],
        ["u3", "'-3度，对", "Correct", "零下三度"],
    ]
    rows += [
        [held_out, before["eval"][held_out], "drop", ""],
        ["u5", "第5句", "", ""],
        ["u0", "第0句", "correct", "第十句"],
    ]
    after = prepared(table, tmp_path / "after", rows)
    expected = {split: dict(texts) for split, texts in before.items()}
    del expected["eval"][held_out]
    for texts in expected.values():
        texts |= {name: text for name, text in {"u0": "第十句", "u3": "零下三度"}.items() if name in texts}
    assert after == expected
    (rejected,) = map(json.loads, (tmp_path / "after" / "rejected.jsonl").read_text(encoding="utf-8").splitlines())
    assert rejected["reason"] == "dropped" and "decisions.csv:5 says drop" in rejected["detail"]
    # With the texts corrected in the CSV itself, the same decisions still hold.
    corrected = [
        [*row[:1], "第十句" if row[1] == "第0句" else row[1], *row[2:]]
        for row in csv.reader(table.open(encoding="utf-8"))
    ]
    assert prepared(write_csv(table.parent / "b.csv", corrected), tmp_path / "again", rows) == after


def test_a_decision_on_a_repeat_is_one_on_its_row(table: Path, tmp_path: Path) -> None:
    rows = list(csv.reader(table.open(encoding="utf-8")))
    balanced = [[*row, "kind" if number == 0 else "rare" if number < 3 else "usual"] for number, row in enumerate(rows)]
    own, options = write_csv(table.parent / "kinds.csv", balanced), {"balance_column": "kind", "eval_ratio": 0.0}

    def train(*made: list[str], mode: str = "upsample") -> dict[str, str]:
        folder = tmp_path / mode
        decisions = write_csv(tmp_path / "decisions.csv", [HEADER, *made]) if made else None
        config = {"csv": str(own), "out": str(folder), "decisions": decisions and str(decisions), "test_ratio": 0.0}
        prepare(PrepareConfig(**config, balance_mode=mode, **options))
        lines = map(json.loads, (folder / "train.jsonl").read_text(encoding="utf-8").splitlines())
        return {line["id"]: line["conversation"][-1]["content"] for line in lines}

    assert {"u0", "u0-2", "u1-5"} <= train().keys()
    found = train(["u0-2", "第0句", "correct", "第十句"], ["u0", "第0句", "", ""], ["u1-5", "第1句", "keep", ""])
    assert found["u0"] == found["u0-2"] == found["u0-5"] == "第十句" and found["u1-5"] == "第1句"
    with pytest.raises(DataError, match=r"decisions.csv:3: decides otherwise than line 2 on the same row"):
        train(["u0", "第0句", "keep", ""], ["u0-2", "第0句", "drop", ""])
    with pytest.raises(DataError, match=r"decisions.csv:2: no row that is left after cleaning has the id 'u0-2'"):
        train(["u0-2", "第0句", "drop", ""], mode="downsample")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            ["u0", "第0句", "change", "x"],
            "decisions.csv:2: 'change' is not a decision. It can be keep, correct, drop",
        ),
        (["u0", "第0句", "correct", " "], "decisions.csv:2: says correct, and has no correction"),
        (["u0", "第0句", "", "第十句"], "decisions.csv:2: has a correction, and no decision. Write correct"),
        (["u99", "第0句", "drop", ""], "decisions.csv:2: no row that is left after cleaning has the id 'u99'"),
        (["u0", "第9句", "drop", ""], "decisions.csv:2: was decided on '第9句', and the text of 'u0' is '第0句' now"),
        (["u0", "第0句", "correct", "。"], "decisions.csv:2: the correction is refused: transcript '。' has no letter"),
    ],
)
def test_what_cannot_be_done_is_an_error(table: Path, tmp_path: Path, row: list[str], said: str) -> None:
    with pytest.raises(DataError) as refused:
        prepared(table, tmp_path, [HEADER, row])
    assert said in str(refused.value)
    assert not (tmp_path / "train.jsonl").exists()


def test_a_file_that_holds_no_decisions_is_an_error(table: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"decisions.csv:1: has no column 'decision'. It needs the columns id, reference"
    ):
        prepared(table, tmp_path, [["id", "reference"], ["u0", "第0句"]])
    (tmp_path / "cut.csv").write_text('id,reference,decision,correction\nu0,"第0句" x,drop,\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"cut.csv:2: lines 2 to 2 are no CSV row .*Put cells with a comma"):
        prepare(PrepareConfig(csv=str(table), out=str(tmp_path), decisions=str(tmp_path / "cut.csv")))
    (tmp_path / "bad.csv").write_bytes(",".join(HEADER).encode() + b"\nu0,\xe9t\xe9,drop,\n")
    with pytest.raises(DataError, match=r"bad.csv:2: byte 0xe9 .*Save it as a CSV in UTF-8") as refused:
        prepare(PrepareConfig(csv=str(table), out=str(tmp_path), decisions=str(tmp_path / "bad.csv")))
    assert "encoding=" not in str(refused.value)
    lines = ['u0,"第0句,drop,', *("u1,第1句,keep," for _ in range(60))]
    (tmp_path / "open.csv").write_text("\n".join([",".join(HEADER), *lines]), encoding="utf-8")
    with pytest.raises(DataError, match=r"open.csv:2: a quoted cell of this row is never closed") as refused:
        prepare(PrepareConfig(csv=str(table), out=str(tmp_path), decisions=str(tmp_path / "open.csv")))
    assert "double the quotes in them" in str(refused.value) and "quotechar" not in str(refused.value)
    with pytest.raises(DataError, match="decides otherwise than line 2 on the same row"):
        prepared(table, tmp_path, [HEADER, ["u0", "第0句", "drop", ""], ["u0", "第0句", "keep", ""]])
    with pytest.raises(DataError, match=r"no.csv: cannot read the CSV .*Check the option decisions"):
        prepare(PrepareConfig(csv=str(table), out=str(tmp_path), decisions=str(tmp_path / "no.csv")))
    dropped = [[f"u{index}", "-3度，对" if index == 3 else f"第{index}句", "drop", ""] for index in range(12)]
    with pytest.raises(DataError, match=r"decisions.csv: drops all rows of train.jsonl"):
        prepared(table, tmp_path, [HEADER, *dropped])
