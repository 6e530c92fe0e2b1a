"""Decisions on labels, from ``labels.html`` or ``suspects.csv``: rows that are corrected or dropped by their ids."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kimi_audio_ft.config.commands import PrepareConfig
from kimi_audio_ft.corpus.csv_table import read_records
from kimi_audio_ft.corpus.encodings import EncodingError
from kimi_audio_ft.corpus.reasons import Rejection
from kimi_audio_ft.corpus.rows import Segment, check_speech_rate
from kimi_audio_ft.corpus.transcripts import check_transcript
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.text import with_formula

COLUMNS = ("id", "reference", "decision", "correction")
KEEP, CORRECT, DROP = "keep", "correct", "drop"
_QUOTING = 'Put cells with a comma, a quote or a line break in quotes, and double the quotes in them: "he said ""no"""'
_REPEAT = re.compile(r"-\d+\Z")  # as ``number_repeats`` writes it
_AGAIN = "Decide again on the list of `python -m multirun_analysis.labels`, or delete the line"


@dataclass(frozen=True)
class Decision:
    """A line of the file: correct, to ``correction``, or drop. reference: the text that was decided on."""

    line: int
    reference: str
    decision: str
    correction: str


@dataclass(frozen=True)
class Decisions:
    """All decisions of a file, by id."""

    path: Path
    by_id: dict[str, Decision]

    @classmethod
    def read(cls, file: str | None) -> Decisions:
        """Those that are made; none without a file.

        Raises:
            DataError: the file cannot be read, lacks a column, or a line decides nothing that can be done.
        """
        path = Path(file or "")
        found: dict[str, Decision] = {}
        for name, made in _lines(path) if file else ():
            _check(made, found.get(name), path)
            found[name] = made
        return cls(path, {name: made for name, made in found.items() if made.decision})

    def on_rows(self, ids: Container[str], config: PrepareConfig) -> Decisions:
        """Those to correct or drop, by the ids of rows.

        With ``balance_mode=upsample`` a decision on a repeat (``x-2`` of ``x``) is one on its row.

        Raises:
            DataError: two on one row differ.
        """
        found: dict[str, Decision] = {}
        for name, made in self.by_id.items():
            row = _REPEAT.sub("", name)
            if config.balance_mode == "upsample" and name not in ids and row in ids:
                name = row
            _check(made, found.get(name), self.path)
            found[name] = made
        return replace(self, by_id={name: made for name, made in found.items() if made.decision in (CORRECT, DROP)})

    def corrected(self, segments: Sequence[Segment], config: PrepareConfig) -> list[Segment]:
        """The segments with corrected texts; those to drop are still there, since splits must not change by them.

        Raises:
            DataError: a decision is on an id that is not there, on another text than the row has, or its correction
                breaks a rule for transcripts.
        """
        by_id = {segment.id: segment for segment in segments}
        for name, made in self.by_id.items():
            if name not in by_id:
                problem = f"no row that is left after cleaning has the id {name!r}"
                remedy = f"Prepare with the same options as before. {_AGAIN}"
                raise DataError(self.path, problem, remedy, line=made.line)
            text = by_id[name].text
            if text not in (made.reference, made.correction):
                problem = f"was decided on {made.reference!r}, and the text of {name!r} is {text!r} now"
                raise DataError(self.path, problem, _AGAIN, line=made.line)
            if made.decision == CORRECT:
                by_id[name] = replace(by_id[name], text=made.correction)
                _check_correction(by_id[name], made, self.path, config)
        return list(by_id.values())

    def kept(self, segments: Sequence[Segment], split: str, rejections: list[Rejection]) -> list[Segment]:
        """The segments of a split that are not dropped; the others are added to the rejections.

        Raises:
            DataError: none is left.
        """
        dropped = {name: made for name, made in self.by_id.items() if made.decision == DROP}
        for segment in segments:
            if segment.id in dropped:
                detail = f"{self.path}:{dropped[segment.id].line} says {DROP}"
                rejections.append(Rejection(segment.row.line, "dropped", detail, segment.row.cells))
        left = [segment for segment in segments if segment.id not in dropped]
        if segments and not left:
            raise DataError(self.path, f"drops all rows of {split}.jsonl", "Keep some")
        return left


def _lines(path: Path) -> Iterator[tuple[str, Decision]]:
    """Id and decision of each line."""
    try:
        records, _ = read_records(path, "decisions", unclosed=_QUOTING)
    except EncodingError as error:  # the option encoding is that of the corpus
        raise DataError(
            path, error.problem, "Save it as a CSV in UTF-8, as labels.html does", line=error.line
        ) from None
    header = [name.strip() for name in records[0].fields] if records else []
    lacking = [name for name in COLUMNS if name not in header]
    if lacking:
        remedy = f"It needs the columns {', '.join(COLUMNS)}, as labels.html and suspects.csv have them"
        raise DataError(path, f"has no column {lacking[0]!r}", remedy, line=1)
    for record in records[1:]:
        if record.problem:
            raise DataError(path, record.problem, _QUOTING, line=record.line)
        row = dict(zip(header, record.fields, strict=False))
        name, reference, decision, correction = (with_formula(row.get(column, "").strip()) for column in COLUMNS)
        yield name, Decision(record.line, reference, decision.lower(), correction)


def _check(made: Decision, earlier: Decision | None, path: Path) -> None:
    choices = f"It can be {KEEP}, {CORRECT}, {DROP} or empty"
    problem, remedy = "", choices
    if made.decision not in ("", KEEP, CORRECT, DROP):
        problem = f"{made.decision!r} is not a decision"
    elif made.decision == CORRECT and not made.correction:
        problem, remedy = "says correct, and has no correction", "Write the right text into that column, or drop"
    elif made.decision == "" and made.correction:
        problem, remedy = "has a correction, and no decision", f"Write {CORRECT} into the column decision"
    elif earlier is not None and (earlier.decision, earlier.correction) != (made.decision, made.correction):
        problem, remedy = f"decides otherwise than line {earlier.line} on the same row", "Delete one of the two"
    if problem:
        raise DataError(path, problem, remedy, line=made.line)


def _check_correction(segment: Segment, made: Decision, path: Path, config: PrepareConfig) -> None:
    limits = config.min_chars_per_second, config.max_chars_per_second
    problem = check_transcript(segment.text, config.tags) or check_speech_rate(
        segment.text, segment.heard.seconds, *limits
    )
    if problem:
        raise DataError(path, f"the correction is refused: {problem.detail}", "Correct it, or drop", line=made.line)
