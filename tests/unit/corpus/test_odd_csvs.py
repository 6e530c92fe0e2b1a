"""Odd CSVs with the verdict of prepare beside each: the texts that are left, the reasons of rows, or the error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.config.commands import PrepareConfig
from kimi_audio_ft.corpus.prepare import prepare
from kimi_audio_ft.errors import UserError

pytestmark = pytest.mark.slow

HEAD = "audio,text\n"
BOM = "\ufeff"


def with_text(text: str, encoding: str = "utf-8") -> bytes:
    return f"{HEAD}a.wav,{text}\nb.wav,第二句\n".encode(encoding)


def segments(first: str, second: str) -> bytes:
    """Two rows of a recording of a second and one channel, and one of another, in Kaldi's columns."""
    return f"audio,start,end,channel,text\na.wav,{first},1,一\na.wav,{second},0,二\nb.wav,0,1,0,三\n".encode()


SEGMENTS: dict[str, object] = {"start_column": "start", "end_column": "end"}
LEFT = "第二句"  # of every table of `with_text` whose first row is refused
GERMAN = f"{HEAD}a.wav,für Prüfung größe\nb.wav,schöne Grüße\n"
# bytes, options of prepare -> texts (a list), reason of the first row (a word), or the error (a pattern with a space)
CASES: dict[str, tuple[bytes, dict[str, object], list[str] | str]] = {
    # encodings
    "utf-8": (with_text("今天"), {}, ["今天", LEFT]),
    "utf-8 with a mark": (with_text("今天", "utf-8-sig"), {}, ["今天", LEFT]),
    "utf-8 with two marks": (BOM.encode() + with_text("今天", "utf-8-sig"), {}, ["今天", LEFT]),
    "utf-16": (with_text("今天", "utf-16"), {}, ["今天", LEFT]),
    "utf-32": (with_text("今天", "utf-32"), {}, ["今天", LEFT]),
    "utf-16 without a mark": (with_text("今天", "utf-16-le"), {}, "zero bytes.*Set encoding=utf-16-le"),
    "utf-16 without a mark, named": (with_text("今天", "utf-16-le"), {"encoding": "utf-16-le"}, ["今天", LEFT]),
    "gbk": (with_text("今天", "gbk"), {}, ["今天", LEFT]),
    "gb18030 with a rare character": (with_text("今天𠮷野家", "gb18030"), {}, ["今天𠮷野家", LEFT]),
    "cp1252": (GERMAN.encode("cp1252"), {}, r":2: it is not UTF-8, .*Set encoding=.* cp1252 .*für Prüfung größe"),
    "cp1252, named": (GERMAN.encode("cp1252"), {"encoding": "cp1252"}, ["für Prüfung größe", "schöne Grüße"]),
    "cp1251": (f"{HEAD}a.wav,привет как дела\n".encode("cp1251"), {}, "does not read as Chinese|not utf-8 or gb18030"),
    "koi8-r": (f"{HEAD}a.wav,привет как дела\n".encode("koi8-r"), {}, "does not read as Chinese|not utf-8 or gb18030"),
    "euc-kr": (f"{HEAD}a.wav,안녕하세요 반갑습니다\n".encode("euc-kr"), {}, "does not read as Chinese|not utf-8 or"),
    "shift-jis": (f"{HEAD}a.wav,こんにちは世界です\n".encode("shift-jis"), {}, "read as Chinese|not utf-8 or gb18030"),
    "one bad byte in utf-8": (
        with_text("今天很好") + b"c.wav,\xe4\xbd\n",
        {},
        r":4: byte 0xe4 \(byte 52 .* is not utf-8",
    ),
    "wrong encoding named": (with_text("今天", "gbk"), {"encoding": "utf-8"}, r":2: byte 0x\w\w .* is not utf-8"),
    # other files
    "xlsx": (b"PK\x03\x04" + bytes(99), {}, "an Excel workbook"),
    "xls": (b"\xd0\xcf\x11\xe0" + bytes(99), {}, "an Excel workbook"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), {}, "compressed by gzip"),
    "parquet": (b"PAR1" + bytes(99), {}, "a Parquet file"),
    "json lines": (b'{"audio": "a.wav"}\n', {}, "this is JSON"),
    "web page": (b"<!DOCTYPE html><html>", {}, "a web page"),
    "no rows": (b"\n\n", {}, "has no rows"),
    "header only": (HEAD.encode(), {}, "no row is left"),
    # form
    "crlf": (with_text("今天").replace(b"\n", b"\r\n"), {}, ["今天", LEFT]),
    "cr": (with_text("今天").replace(b"\n", b"\r"), {}, ["今天", LEFT]),
    "quotes behind a space": ('audio, text\na.wav, "今, 天"\nb.wav, "第二句"\n'.encode(), {}, ["今, 天", LEFT]),
    "quoted comma": (with_text('"一,二"'), {}, ["一,二", LEFT]),
    "quoted newline": (with_text('"一\n二"'), {}, ["一\n二", LEFT]),
    "doubled quotes": (with_text('"说""好"""'), {}, ['说"好"', LEFT]),
    "one more comma": (with_text("一,二"), {}, "malformed_row"),
    "broken quote": (with_text('"一"二'), {}, "malformed_row"),
    "semicolons": (with_text("一").replace(b",", b";"), {}, "no column .*delimiter="),
    "semicolons, named": (with_text("一").replace(b",", b";"), {"delimiter": "semicolon"}, ["一", LEFT]),
    "blank lines": (with_text("一").replace(b"\n", b"\n\n"), {}, ["一", LEFT]),
    "spaces around": (with_text(" 一  ").replace(b"b.wav", b" b.wav "), {}, ["一", LEFT]),
    # texts
    "nan": (with_text("nan"), {}, "empty_transcript"),
    "NULL": (with_text("NULL"), {}, "empty_transcript"),
    "#N/A": (with_text("#N/A"), {}, "empty_transcript"),
    "nothing": (with_text(""), {}, "empty_transcript"),
    "punctuation": (with_text("……"), {}, "empty_transcript"),
    "None is a word": (with_text("None"), {}, ["None", LEFT]),
    "control character": (with_text("一\x07二"), {}, "garbled_transcript"),
    "escape": (with_text("一\x1b[31m二"), {}, "garbled_transcript"),
    "bidi override": (with_text("一\u202e二"), {}, "garbled_transcript"),
    "zero width space": (with_text("一\u200b二"), {}, "garbled_transcript"),
    "replacement character": (with_text("一\ufffd二"), {}, "garbled_transcript"),
    "utf-8 read as cp1252": (with_text("schÃ¶n"), {}, "garbled_transcript"),
    "joiners of Persian": (with_text("می\u200cخواهم"), {}, ["می\u200cخواهم", LEFT]),
    "unk": (with_text("<unk>一"), {}, "tagged_transcript"),
    "laughter": (with_text("一[笑声]"), {}, "tagged_transcript"),
    "tags stripped": (with_text("<unk> 一 [笑声] 二"), {"tags": "strip"}, ["一 二", LEFT]),
    "only a tag, stripped": (with_text("[笑声]"), {"tags": "strip"}, "empty_transcript"),
    "tags kept": (with_text("一[笑声]"), {"tags": "keep"}, ["一[笑声]", LEFT]),
    "no tag": (with_text("x < 3 和 y > 2"), {}, ["x < 3 和 y > 2", LEFT]),
    # names of recordings
    "no name": (with_text("一").replace(b"a.wav", b""), {}, "missing_audio"),
    "nan as a name": (with_text("一").replace(b"a.wav", b"nan"), {}, "missing_audio"),
    "other case": (with_text("一").replace(b"a.wav", b"A.WAV"), {}, "missing_audio"),
    # segments of recordings
    "segments": (segments("0.1,0.5", "0.50,0.9"), SEGMENTS, ["一", "二", "三"]),
    "a segment that is repeated": (segments("0.1,0.5", "0.1,0.5"), SEGMENTS, "other_transcript"),
    "segments that overlap": (segments("0,0.6", "0.4,1"), SEGMENTS, ["一", "二", "三"]),
    "segment in milliseconds": (segments("100,500", "0.5,0.9"), SEGMENTS, "bad_segment"),
    "segment in minutes": (segments("0:00.1,0:00.5", "0.5,0.9"), SEGMENTS, "bad_segment"),
    "segment with decimal commas": (segments('"0,1","0,5"', "0.5,0.9"), SEGMENTS, "bad_segment"),
    "segment without its end": (segments("0.1,", "0.5,0.9"), SEGMENTS, "bad_segment"),
    "segment of a length": (segments("0.5,0.4", "0.5,0.9"), SEGMENTS, "bad_segment"),
    "segment beyond the end": (segments("0.5,1.5", "0.5,0.9"), SEGMENTS, "bad_segment"),
    "segment that is not a number": (segments("nan,0.5", "0.5,0.9"), SEGMENTS, "bad_segment"),
    "no such channel": (segments("0.1,0.5", "0.5,0.9"), {**SEGMENTS, "channel_column": "channel"}, "no_channel"),
    "no such column": (segments("0.1,0.5", "0.5,0.9"), {**SEGMENTS, "end_column": "to"}, "no column of that name"),
    "one recording, two texts": (HEAD.encode() + b"b.wav,x\n" + with_text("一")[len(HEAD) :], {}, "other_transcript"),
}


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for seed, name in enumerate("ab"):
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 8000)
        soundfile.write(folder / f"{name}.wav", noise, 8000)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str, recordings: Path, tmp_path: Path) -> None:
    data, options, verdict = CASES[name]
    (tmp_path / "a.csv").write_bytes(data)
    settings = {
        "eval_ratio": 0.0,
        "test_ratio": 0.0,
        "max_refused": 1.0,
        "audio_pattern": f"{recordings}/{{audio}}",
        **options,
    }
    config = PrepareConfig(csv=str(tmp_path / "a.csv"), out=str(tmp_path / "out"), **settings)  # type: ignore[arg-type]
    if isinstance(verdict, str) and not verdict.isidentifier():
        with pytest.raises(UserError) as caught:
            prepare(config)
        assert re.search(verdict, str(caught.value)), caught.value
        assert not (tmp_path / "out" / "train.jsonl").exists()
        return
    prepare(config)
    train, rejected = (
        [json.loads(line) for line in (tmp_path / "out" / f"{part}.jsonl").read_text("utf-8").split("\n") if line]
        for part in ("train", "rejected")
    )
    if isinstance(verdict, list):
        assert [line["conversation"][2]["content"] for line in train] == verdict and rejected == []
    else:
        assert rejected[0]["reason"] == verdict and rejected[0]["line"] == 2


@pytest.mark.parametrize(
    ("written", "hint"),
    [("A.WAV", "there is 'a.wav'"), ("a.flac", "there is 'a.wav'"), ("wav\\a.wav", "write / between folders")],
)
def test_a_missing_recording_has_a_hint(written: str, hint: str, recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{HEAD}{written},一\nb.wav,二\n", encoding="utf-8")
    out = tmp_path / "out"
    pattern = f"{recordings}/{{audio}}"
    prepare(
        PrepareConfig(
            str(tmp_path / "a.csv"), str(out), audio_pattern=pattern, max_refused=0.5, eval_ratio=0.0, test_ratio=0.0
        )
    )
    assert hint in json.loads((out / "rejected.jsonl").read_text("utf-8"))["detail"]
