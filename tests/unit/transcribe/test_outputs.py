"""Texts as files: a line for each recording, a row for each piece, subtitles."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.corpus.csv_table import read_csv
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.manifest.audio import AudioError
from kimi_audio_ft.manifest.part import Part
from kimi_audio_ft.transcribe.confidence import Text
from kimi_audio_ft.transcribe.outputs import Outputs, csv_text, row_of, subtitle_names, subtitles, surest_of
from kimi_audio_ft.transcribe.pieces import Heard, Piece
from kimi_audio_ft.transcribe.sources import Source

BROKEN = AudioError("unreadable_audio", "/calls/b.wav", "is cut", "Copy it again")


def heard(name: str, *bounds: tuple[float, float], **fields: Any) -> Heard:
    pieces = tuple(Piece(Part(start, end), f"{name} {start}", start, end) for start, end in bounds)
    return Heard(Source(Path("/calls") / name, name), 75.5, "d", pieces, **fields)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """A recording in two pieces, one that cannot be read, one without speech."""
    texts = [Text("-3度 <b>", -1.23456, 3, 0.75), Text("再见", -1.0, 4, 1.0, truncated=True)]
    long = heard("deep/a.wav", (0.4, 28.0), (3601.5, 3605.0625))
    return [row_of(long, texts), row_of(heard("b.wav", problem=BROKEN), []), row_of(heard("c.wav"), [])]


def test_lines(rows: list[dict[str, Any]]) -> None:
    assert rows[0] == {
        "audio": "/calls/deep/a.wav",
        "seconds": 75.5,
        "text": "-3度 <b>再见",
        "avg_logprob": -0.3192,
        "agreement": 0.8929,
        "truncated": True,
        "segments": [
            {"start": 0.4, "end": 28.0, "text": "-3度 <b>", "avg_logprob": -0.4115, "agreement": 0.75},
            {
                **{"start": 3601.5, "end": 3605.062, "text": "再见", "avg_logprob": -0.25, "agreement": 1.0},
                "truncated": True,
            },
        ],
    }
    assert rows[1] == {"audio": "/calls/b.wav", "error": str(BROKEN), "reason": "unreadable_audio"}
    assert rows[2] == {"audio": "/calls/c.wav", "seconds": 75.5, "text": "", "segments": []}
    assert row_of(heard("c.wav"), [], channel=1)["channel"] == 1


def test_the_csv_is_a_corpus_for_prepare(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "transcripts.csv"
    path.write_text(csv_text(rows), encoding="utf-8")
    with path.open(encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["audio"], row["start"], row["text"], bool(row["error"])) for row in found] == [
        ("/calls/deep/a.wav", "0.4", "'-3度 <b>", False),
        ("/calls/deep/a.wav", "3601.5", "再见", False),
        ("/calls/b.wav", "", "", True),
        ("/calls/c.wav", "", "", False),
    ]
    table = read_csv(path, {"audio_column": "audio", "text_column": "text", "start_column": "start"})
    assert len(table.rows) == 4 and not any(row.problem for row in table.rows)


def test_the_surest_pieces_are_kept_up_to_their_part_of_the_audio() -> None:
    def piece(start: float, text: str, avg_logprob: float, **agreement: float) -> dict[str, Any]:
        return {"start": start, "end": start + 2.0, "text": text, "avg_logprob": avg_logprob, **agreement}

    one = {"audio": "/a.wav", "segments": [piece(0.0, "一", -0.9), piece(2.0, "二", -0.1), piece(4.0, " ", -0.0)]}
    two = {"audio": "/b.wav", "segments": [piece(0.0, "三", -0.5)]}
    rows = [one, two, {"audio": "/c.wav", "error": "no"}, {"audio": "/d.wav", "segments": [piece(0.0, "四", -2.0)]}]

    def kept(part: float) -> list[str]:
        return [segment["text"] for row in surest_of(rows, part) for segment in row["segments"]]

    assert kept(0.5) == ["二", "三"] and kept(0.75) == ["一", "二", "三"] and kept(0.2) == []
    assert kept(1.0) == ["一", "二", "三", "四"]
    segments = [piece(0.0, "一", -0.1, agreement=0.5), piece(2.0, "二", -3.0, agreement=1.0)]
    assert surest_of([{"audio": "/a.wav", "segments": segments}], 0.5)[0]["segments"][0]["text"] == "二"
    assert surest_of([], 1.0) == []


def test_neither_cut_texts_nor_what_is_too_long_keep_others_from_the_surest() -> None:
    def piece(seconds: float, text: str, avg_logprob: float, **flags: bool) -> dict[str, Any]:
        return {"start": 0.0, "end": seconds, "text": text, "avg_logprob": avg_logprob, **flags}

    loop, long = piece(9.0, "好好好好", -0.01, truncated=True), piece(8.0, "一", -0.1)
    rows = [{"audio": f"/{n}.wav", "segments": [one]} for n, one in enumerate([loop, long, piece(2.0, "二", -0.2)])]
    assert [row["segments"][0]["text"] for row in surest_of(rows, 1.0)] == ["一", "二"]
    assert [row["segments"][0]["text"] for row in surest_of(rows, 0.5)] == ["二"]  # of 10 s: 8 s do not fit, 2 s do


def test_subtitles(rows: list[dict[str, Any]]) -> None:
    segments = [*rows[0]["segments"], {"start": 9.0, "end": 9.5, "text": " "}]
    segments[1] = {**segments[1], "text": "再\n\n见"}
    assert subtitles(segments, "srt") == (
        "1\n00:00:00,400 --> 00:00:28,000\n-3度 <b>\n\n2\n01:00:01,500 --> 01:00:05,062\n再 见\n"
    )
    assert subtitles(segments, "vtt") == (
        "WEBVTT\n\n1\n00:00:00.400 --> 00:00:28.000\n-3度 &lt;b&gt;\n\n2\n01:00:01.500 --> 01:00:05.062\n再 见\n"
    )
    assert subtitles([], "vtt") == "WEBVTT\n"


def test_subtitles_are_named_as_their_recordings() -> None:
    names = ["deep/a.wav", "b.wav", "b.mp3", "v1.2.wav", "c.wav", "c.wav"]
    assert subtitle_names(names, "srt") == [
        *("deep/a.srt", "b.wav.srt", "b.mp3.srt", "v1.2.srt", "c.wav.srt", "c.wav-2.srt"),
    ]


def test_only_the_formats_that_are_asked_for_are_written(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    names = ["deep/a.wav", "b.wav", "c.wav"]
    Outputs(tmp_path, names, ["jsonl"]).add(dict(enumerate(rows)))
    assert [path.name for path in tmp_path.iterdir()] == ["transcripts.jsonl"]
    assert read_jsonl(tmp_path / "transcripts.jsonl") == rows
    Outputs(tmp_path, names, ["csv", "srt", "vtt"]).add(dict(enumerate(rows)))
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("[!.]*") if path.is_file()}
    subtitled = {f"{name}.{kind}" for name in ("deep/a", "c") for kind in ("srt", "vtt")}
    assert files == {"transcripts.jsonl", "transcripts.csv"} | subtitled


def test_names_of_subtitles_do_not_depend_on_what_is_done(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    names = ["a.mp3", "b.wav", "a.wav"]
    outputs = Outputs(tmp_path, names, ["srt"])
    outputs.add({2: rows[0]})
    assert [path.name for path in tmp_path.glob("*.srt")] == ["a.wav.srt"]
    outputs.add({0: rows[2]})
    assert {path.name for path in tmp_path.glob("*.srt")} == {"a.wav.srt", "a.mp3.srt"}
    assert read_jsonl(tmp_path / "transcripts.jsonl") == [rows[2], rows[0]] and 0 in outputs and 1 not in outputs


def test_what_people_have_edited_is_not_overwritten(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    def run() -> Outputs:
        return Outputs(tmp_path, ["deep/a.wav", "b.wav", "c.wav"], ["csv", "srt"], surest=1.0)

    run().add({0: rows[0]})
    outputs = run()
    outputs.require_unedited()
    outputs.add(dict(enumerate(rows)))
    outputs.require_unedited()
    for name in ("transcripts.csv", "surest.csv", "deep/a.srt"):
        path = tmp_path / name
        written = path.read_text(encoding="utf-8")
        path.write_text(written.replace("3度", "4度"), encoding="utf-8")
        with pytest.raises(DataError, match=rf"{name}: has been edited.* Move it, or name another out"):
            run().require_unedited()
        outputs.add({1: rows[1]})  # in the middle of a run: the others are written
        assert "4度" in path.read_text(encoding="utf-8")
        path.write_text(written, encoding="utf-8")
        run().require_unedited()
    (tmp_path / ".written.json").unlink()  # of another version, or by hand
    with pytest.raises(DataError, match="made by something else"):
        run().require_unedited()
    Outputs(tmp_path, [], ["jsonl"]).require_unedited()
