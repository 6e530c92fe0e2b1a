"""Texts as files: transcripts.jsonl, transcripts.csv, and subtitles for each recording (SubRip and WebVTT)."""

from __future__ import annotations

import csv
import html
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from kimi_audio_ft.corpus.csv_table import OF_TRANSCRIBE
from kimi_audio_ft.corpus.rows import number_repeats
from kimi_audio_ft.files import write_jsonl, write_text
from kimi_audio_ft.text import no_formula, printable
from kimi_audio_ft.transcribe.confidence import Text, joined
from kimi_audio_ft.transcribe.pieces import Heard

JSONL, CSV, SUREST = "transcripts.jsonl", "transcripts.csv", "surest.csv"
SUBTITLES = ("srt", "vtt")
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


def write_outputs(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    formats: Sequence[str],
    surest: float | None = None,
) -> None:
    """Write transcripts.jsonl, and what else is asked for.

    Args:
        rows: of ``row_of``. names: of the recordings, relative paths by which their subtitles are named.
        surest: part of the audio whose pieces go into surest.csv; None: no such file.
    """
    write_jsonl(out / JSONL, rows)
    if surest is not None:
        write_text(out / SUREST, csv_text(surest_of(rows, surest)))
    if "csv" in formats:
        write_text(out / CSV, csv_text(rows))
    for kind in SUBTITLES:
        if kind in formats:
            for name, row in zip(subtitle_names(names, kind), rows, strict=True):
                if "error" not in row:
                    write_text(out / name, subtitles(row["segments"], kind))


def surest_of(rows: Sequence[Mapping[str, Any]], part: float) -> list[dict[str, Any]]:
    """The recordings with their surest pieces only, so much of the audio that has a text; those without are left out.

    Samples that agree are the better sign, so that the log probability decides only among equal ones.
    """
    pieces = [
        (number, place, segment)
        for number, row in enumerate(rows)
        for place, segment in enumerate(row.get("segments", ()))
        if segment["text"].strip()
    ]
    pieces.sort(key=lambda piece: (-piece[2].get("agreement", 1.0), -piece[2].get("avg_logprob", 0.0)))
    room = part * sum(segment["end"] - segment["start"] for _, _, segment in pieces)
    kept: set[tuple[int, int]] = set()
    for number, place, segment in pieces:
        room -= segment["end"] - segment["start"]
        if room < -_ROUNDING:
            break
        kept.add((number, place))
    chosen = [
        {**row, "segments": [one for place, one in enumerate(row.get("segments", ())) if (number, place) in kept]}
        for number, row in enumerate(rows)
    ]
    return [row for row in chosen if row["segments"]]


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
