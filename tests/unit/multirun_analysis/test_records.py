"""Record files: what is read, what is refused with its file and line, and what is written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kimi_audio_ft.errors import DataError, UserError
from multirun_analysis.records import finite, read_json, read_jsonl, write_whole


def test_a_line_ends_at_its_newline_only(tmp_path: Path) -> None:
    """JSON may leave U+2028 and U+0085 in its strings, and models write them."""
    path = tmp_path / "utterances.jsonl"
    path.write_text('{"a": "你\u2028好"}\n\n{"a": "再\u0085见"}\n', encoding="utf-8")
    assert [row["a"] for row in read_jsonl(path)] == ["你\u2028好", "再\u0085见"]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st', encoding="utf-8")
    assert [row["step"] for row in read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n{"a"\n{"a": 3}\n', r":2: is not JSON"),
        (b'{"a": 1}\n[2]\n', r":2: holds a list, expected a JSON object"),
        (b'{"a": 1}\n{"b": \n', r":2: is not JSON"),
        (b'{"a": 1}\n\xff\n', r"is not UTF-8 \(byte 9\)"),
    ],
)
def test_a_complete_line_that_is_no_object_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "curves.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"curves\.jsonl" + r".*" * (said[0] != ":") + said):
        list(read_jsonl(tmp_path / "curves.jsonl"))


def test_a_record_is_one_json_object(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    with pytest.raises(DataError, match="cannot be read"):
        read_json(path)
    path.write_text('{\n"cer": }', encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.json:2: is not JSON.*Remove this trial's folder"):
        read_json(path)
    path.write_text('{"cer": 0.5}', encoding="utf-8")
    assert read_json(path) == {"cer": 0.5}


def test_figures_that_are_no_numbers_become_null_at_any_depth() -> None:
    assert finite({"a": math.nan, "b": [1.5, (math.inf, "x")], "c": {"d": -math.inf}}) == {
        "a": None,
        "b": [1.5, [None, "x"]],
        "c": {"d": None},
    }


def test_a_file_that_cannot_be_written_names_the_option(tmp_path: Path) -> None:
    write_whole(tmp_path / "report.html", "页")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "页"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written \(.*\)\. Choose another folder with --out DIR"):
        write_whole(tmp_path / "file" / "report.html", "页")
