"""The record files of a trial folder, read with their errors in words; and the report's files, written atomically."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import write_text

Record = dict[str, Any]


def read_json(path: Path) -> Record:
    """The JSON object in ``path``.

    Raises:
        DataError: the file cannot be read, is no UTF-8 or no JSON object.
    """
    try:
        record = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(path, f"is not JSON: {error.msg}", RERUN, line=error.lineno) from error
    if not isinstance(record, dict):
        raise DataError(path, f"holds a {type(record).__name__}, expected a JSON object", RERUN)
    return record


def read_jsonl(path: Path) -> Iterator[Record]:
    """The JSON objects of ``path``, one a line.

    A last line without its newline that is not JSON is left out: it is what a killed process leaves behind.

    Raises:
        DataError: a complete line is not a JSON object.
    """
    lines = _lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # nothing ends it
                return
            raise DataError(path, f"is not JSON: {error.msg}", RERUN, line=number) from error
        if not isinstance(record, dict):
            raise DataError(path, f"holds a {type(record).__name__}, expected a JSON object", RERUN, line=number)
        yield record


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line of ``path`` that is not blank.

    Raises:
        DataError: the file cannot be read or is no UTF-8.
    """
    yield from ((number, line) for number, line in enumerate(_lines(path), start=1) if line.strip())


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; a reader finds the old file or the new one.

    Raises:
        UserError: the file cannot be written (no permission, disk full); nothing half-written stays.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Choose another folder with --out DIR"
        ) from error


def finite(value: Any) -> Any:
    """``value`` with every NaN and infinity replaced by None, at any depth: JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _lines(path: Path) -> list[str]:
    """Lines with their newline; unlike ``splitlines``, not cut at U+2028 or U+0085, which JSON strings may hold."""
    return io.StringIO(_read_text(path)).readlines()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(path, f"is not UTF-8 (byte {error.start})", RERUN) from error


RERUN = "Remove this trial's folder and run the same sweep command again"
