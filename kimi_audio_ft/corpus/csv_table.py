"""CSV reader: detects the encoding and the header, keeps line numbers and reports malformed rows."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kimi_audio_ft.corpus.encodings import decode_text
from kimi_audio_ft.errors import ConfigError, DataError

OF_TRANSCRIBE = ("avg_logprob", "agreement")
"""Columns by which the CSVs of ``transcribe`` are known."""

_UNCLOSED = 'Close it, double quotes inside cells (""), or set quotechar="" if the file does not quote'
# An unclosed quote swallows the following rows. A bad row longer than this many lines is reported as one.
_MAX_LINES_PER_BAD_ROW = 50


@dataclass(frozen=True)
class CsvRow:
    """One data row; ``problem`` says why it is malformed, or is None."""

    line: int  # first line of the row in the file, from 1
    cells: dict[str, str]  # by column name; surplus cells by their index
    problem: str | None = None


@dataclass(frozen=True)
class CsvTable:
    """A CSV file in memory with all its non-blank rows, malformed ones included."""

    path: Path
    encoding: str
    columns: tuple[str, ...]  # unnamed and repeated columns are named by their index, from 0
    chosen: dict[str, str]  # option -> column name
    kept: tuple[str, ...]  # names of the columns to keep
    rows: tuple[CsvRow, ...]

    @property
    def quotes_formulas(self) -> bool:
        """Whether a quote before a formula is ours (``no_formula``); in other CSVs it is part of the text."""
        return set(OF_TRANSCRIBE) <= set(self.columns)


@dataclass(frozen=True)
class Record:
    """One row as it is written, the header included; ``problem`` says why it is none, or is None."""

    line: int  # its first line in the file, from 1
    fields: list[str]
    problem: str | None = None


def read_csv(
    path: str | Path,
    wanted: Mapping[str, str],
    *,
    keep: Sequence[str] = (),
    encoding: str = "auto",
    delimiter: str | None = None,
    header: str = "auto",
    quotechar: str = '"',
) -> CsvTable:
    """Reads a whole CSV file; the keyword arguments are those of ``PrepareConfig``.

    Args:
        wanted: option name -> column, by its name in the header or its index from 0; errors name the option.
        keep: more columns, those of the option ``keep_columns``.

    Raises:
        UserError: missing file, wrong encoding, missing column, an unclosed quote, or no rows.
    """
    path = Path(path)
    records, used_encoding = read_records(path, "csv", encoding, delimiter, quotechar)
    if not records:
        raise DataError(path, "the file has no rows", "Give a CSV with one row per recording")
    first = records[0]
    has_header = header == "true" or (header == "auto" and _looks_like_header(first.fields, [*wanted.values(), *keep]))
    if has_header and first.problem:
        raise DataError(path, f"the header cannot be read: {first.problem}", "Correct it", line=first.line)
    columns = _column_names(first.fields, has_header)
    chosen = {option: _find(column, columns, option, path, first) for option, column in wanted.items()}
    kept = tuple(_find(column, columns, "keep_columns", path, first) for column in keep)
    twice = next((column for column in kept if kept.count(column) > 1), None)
    if twice:
        raise ConfigError("keep_columns", list(keep), f"names the column {twice!r} twice", "Name each column once")
    rows = tuple(_row(record, columns) for record in records[1 if has_header else 0 :])
    return CsvTable(path, used_encoding, columns, chosen, kept, rows)


def read_records(
    path: Path,
    option: str,
    encoding: str = "auto",
    delimiter: str | None = None,
    quotechar: str = '"',
    unclosed: str = _UNCLOSED,
) -> tuple[list[Record], str]:
    """All non-blank rows and the encoding that was read.

    Args:
        option: names the file.
        unclosed: the remedy for a quote that is never closed.

    Raises:
        UserError: missing file, wrong encoding, or an unclosed quote.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot read the CSV ({error.strerror})", f"Check the option {option}") from None
    text, used_encoding = decode_text(path, data, encoding)
    separator = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    return list(_records(path, text, separator, quotechar, unclosed)), used_encoding


def _records(path: Path, text: str, delimiter: str, quotechar: str, unclosed: str) -> Iterator[Record]:
    """Rows with the line each starts on; blank lines are skipped."""
    lines = list(io.StringIO(text, newline=""))
    # Lenient parsing would silently drop the quotes of `"Yes" he said`; strict parsing reports the row.
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        quotechar=quotechar or None,
        quoting=csv.QUOTE_MINIMAL if quotechar else csv.QUOTE_NONE,
        strict=True,
        skipinitialspace=True,  # or the quotes of `a.wav, "text"` would be part of the text
    )
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num - start >= _MAX_LINES_PER_BAD_ROW:
                raise DataError(path, "a quoted cell of this row is never closed", unclosed, line=start) from error
            problem = f"lines {start} to {reader.line_num} are no CSV row ({error})"
            yield Record(start, ["".join(lines[start - 1 : reader.line_num])], problem)
            continue
        if fields:
            yield Record(start, fields)


def _looks_like_header(fields: list[str], wanted: Sequence[str]) -> bool:
    names = {field.strip() for field in fields}
    positions_only = all(column.isdecimal() for column in wanted)
    return not positions_only or any(column in names for column in wanted)


def _column_names(first: list[str], has_header: bool) -> tuple[str, ...]:
    names = [field.strip() if has_header else "" for field in first]
    times = Counter(names)
    return tuple(name if name and times[name] == 1 else str(index) for index, name in enumerate(names))


def _find(column: str, columns: tuple[str, ...], option: str, path: Path, first: Record) -> str:
    if column in columns:
        return column
    if column.isdecimal() and int(column) < len(columns):
        return columns[int(column)]
    twice = [field.strip() for field in first.fields].count(column) > 1
    raise ConfigError(
        option,
        column,
        f"{path}:{first.line} has {'more than one column' if twice else 'no column'} of that name; its columns are "
        f"{', '.join(repr(name) for name in columns)}",
        "Name one of them or give its position from 0; if the file has no header, set header=false; if this looks like "
        "one column, set delimiter=",
    )


def _row(record: Record, columns: tuple[str, ...]) -> CsvRow:
    if record.problem:
        return CsvRow(record.line, {"raw": record.fields[0]}, record.problem)
    names = [*columns, *(str(index) for index in range(len(columns), len(record.fields)))]
    cells = dict(zip(names, record.fields, strict=False))
    if len(record.fields) != len(columns):
        return CsvRow(record.line, cells, f"{len(record.fields)} fields; every row must have {len(columns)}")
    return CsvRow(record.line, cells)
