"""Texts as files: transcripts.jsonl, transcripts.csv, and subtitles for each recording (SubRip and WebVTT)."""

from __future__ import annotations

import csv
import hashlib
import html
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from kimi_audio_ft.corpus.csv_table import OF_TRANSCRIBE
from kimi_audio_ft.corpus.rows import number_repeats
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import read_json_object, write_json, write_jsonl, write_text
from kimi_audio_ft.store.digests import sha256_of
from kimi_audio_ft.text import no_formula, printable
from kimi_audio_ft.transcribe.confidence import Text, joined
from kimi_audio_ft.transcribe.pieces import Heard

JSONL, CSV, SUREST = "transcripts.jsonl", "transcripts.csv", "surest.csv"
SUBTITLES = ("srt", "vtt")
# sha256 of the last two texts that were written into every file that people may correct, by its name.
_WRITTEN = ".written.json"
# The columns of the CSV, as `prepare` reads them with start_column=start and end_column=end.
_COLUMNS = ("audio", "start", "end", "text", *OF_TRANSCRIBE, "truncated", "error")
_DIGITS = 4
# Seconds: times have three digits.
_ROUNDING = 0.01


def row_of(heard: Heard, texts: Sequence[Text], channel: int | None = None) -> dict[str, Any]:
    """A recording's line of transcripts.jsonl, given the texts of its pieces; ``error`` in place of a text it lacks."""
    row: dict[str, Any] = {"audio": _in_utf8(str(heard.source.path))}
    if channel is not None:
        row["channel"] = channel
    if heard.problem is not None:
        return row | {"error": str(heard.problem), "reason": heard.problem.reason}
    segments = [
        {"start": round(piece.start, 3), "end": round(piece.end, 3), **_fields(text)}
        for piece, text in zip(heard.pieces, texts, strict=True)
    ]
    return row | {"seconds": round(heard.seconds, 3), **_fields(joined(texts)), "segments": segments}


def _in_utf8(path: str) -> str:
    """The path; escaped where its bytes are no UTF-8, which no such file can hold."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return printable(path)
    return path


def _fields(text: Text) -> dict[str, Any]:
    fields: dict[str, Any] = {"text": text.text}
    for name in ("avg_logprob", "agreement"):
        value = getattr(text, name)
        if value is not None:
            fields[name] = round(value, _DIGITS)
    return fields | ({"truncated": True} if text.truncated else {})


class Outputs:
    """The files of a run, written anew whenever more of its recordings are done; what people have edited stays.

    Args:
        names: of all recordings, relative paths by which their subtitles are named.
        surest: part of the audio whose pieces go into surest.csv; None: no such file.
    """

    def __init__(self, out: Path, names: Sequence[str], formats: Sequence[str], surest: float | None = None) -> None:
        self._out, self._csv, self._surest = out, "csv" in formats, surest
        self._subtitles = {kind: subtitle_names(names, kind) for kind in SUBTITLES if kind in formats}
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._written: dict[str, list[str]] = {}
        if (out / _WRITTEN).is_file():
            self._written = read_json_object(out / _WRITTEN, "Remove the file")

    def __contains__(self, number: int) -> bool:
        """Whether a recording is among those that are written."""
        return number in self._rows

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """Lines of the recordings that are written, in their order."""
        return [self._rows[number] for number in sorted(self._rows)]

    def add(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Write further recordings, by their numbers, beside those before; but no file that has been edited."""
        self._rows |= rows
        every = self.rows
        write_jsonl(self._out / JSONL, every)
        texts = {CSV: csv_text(every)} if self._csv else {}
        if self._surest is not None:
            texts[SUREST] = csv_text(surest_of(every, self._surest))
        for kind, names in self._subtitles.items():
            texts |= {names[n]: subtitles(row["segments"], kind) for n, row in rows.items() if "error" not in row}
        texts = {name: text for name, text in texts.items() if not self._is_edited(name)}
        if texts:
            # Before the files, and beside what they were: a process that is killed between them has edited nothing.
            self._written |= {name: [*self._written.get(name, ()), _digest(text)][-2:] for name, text in texts.items()}
            write_json(self._out / _WRITTEN, self._written)
        for name, text in texts.items():
            write_text(self._out / name, text)

    def require_unedited(self) -> None:
        """DataError if a file that this run writes is not as an earlier one has left it: people correct them."""
        tables = [CSV] * self._csv + [SUREST] * (self._surest is not None)
        for name in (*tables, *chain.from_iterable(self._subtitles.values())):
            if self._is_edited(name):
                problem = "has been edited, or made by something else, and would be overwritten"
                raise DataError(self._out / name, problem, "Move it, or name another out; no text is decoded again")

    def _is_edited(self, name: str) -> bool:
        path = self._out / name
        return path.is_file() and sha256_of(path) not in self._written.get(name, ())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def surest_of(rows: Sequence[Mapping[str, Any]], part: float) -> list[dict[str, Any]]:
    """The recordings with their surest pieces only, so much of the audio with a whole text; those without are left out.

    Samples that agree are the better sign, so that the log probability decides only among equal ones. Texts that the
    limit of tokens has cut are never among them: most repeat themselves without end, and the model is sure of it.
    """
    pieces = [
        (number, place, segment)
        for number, row in enumerate(rows)
        for place, segment in enumerate(row.get("segments", ()))
        if _is_whole(segment)
    ]
    pieces.sort(key=lambda piece: (-piece[2].get("agreement", 1.0), -piece[2].get("avg_logprob", 0.0)))
    room = part * seconds_of_texts(rows)
    kept: set[tuple[int, int]] = set()
    for number, place, segment in pieces:
        seconds = segment["end"] - segment["start"]
        if seconds <= room + _ROUNDING:
            room -= seconds
            kept.add((number, place))
    chosen = [
        {**row, "segments": [one for place, one in enumerate(row.get("segments", ())) if (number, place) in kept]}
        for number, row in enumerate(rows)
    ]
    return [row for row in chosen if row["segments"]]


def seconds_of_texts(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of the pieces that have a text which no limit has cut."""
    segments = (segment for row in rows for segment in row.get("segments", ()))
    return sum(segment["end"] - segment["start"] for segment in segments if _is_whole(segment))


def _is_whole(segment: Mapping[str, Any]) -> bool:
    return bool(segment["text"].strip()) and not segment.get("truncated")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each piece, one with ``error`` for a recording without text; spreadsheets read it as UTF-8.

    A text that a spreadsheet would take for a formula begins with a quote, which ``prepare`` takes off again.
    """
    columns = [*_COLUMNS[:3], "channel", *_COLUMNS[3:]] if any("channel" in row for row in rows) else list(_COLUMNS)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for segment in row.get("segments") or [{}]:
            shared = {name: row[name] for name in ("audio", "channel", "error") if name in row}
            writer.writerow({name: no_formula(cell) for name, cell in {**shared, **segment}.items()})
    return "\ufeff" + text.getvalue()


def subtitle_names(names: Sequence[str], kind: str) -> list[str]:
    """Paths of subtitles: a recording's with another ending; with both, or a number, where two would share one."""
    stems = [PurePath(name).with_suffix("") for name in names]
    times = Counter(stems)
    paths = [stem if times[stem] == 1 else PurePath(name) for stem, name in zip(stems, names, strict=True)]
    return [f"{path}.{kind}" for path in number_repeats([path.as_posix() for path in paths])]


def subtitles(segments: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Subtitles ``srt`` or ``vtt`` of a recording; pieces without text have none."""
    cues = list(_cues([segment for segment in segments if segment["text"].strip()], kind))
    return "\n".join((["WEBVTT\n"] if kind == "vtt" else []) + cues)


def _cues(segments: Sequence[Mapping[str, Any]], kind: str) -> Iterator[str]:
    comma = "," if kind == "srt" else "."
    for number, segment in enumerate(segments, start=1):
        start, end = (_clock(segment[name], comma) for name in ("start", "end"))
        text = " ".join(segment["text"].split())  # an empty line would end the cue
        yield f"{number}\n{start} --> {end}\n{html.escape(text, quote=False) if kind == 'vtt' else text}\n"


def _clock(seconds: float, comma: str) -> str:
    whole = round(seconds * 1000)
    minutes, rest = divmod(whole, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{comma}{rest % 1000:03d}"
