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
    return _parsed(_read_text(path), path)


def read_jsonl(path: Path) -> Iterator[Record]:
    """The JSON objects of ``path``, one a line.

    A last line without its newline that is no object is left out: it is what a killed process leaves behind.

    Raises:
        DataError: the file cannot be read, or a complete line is not a JSON object.
    """
    # Not ``splitlines``, which cuts at U+2028 and U+0085, too: JSON strings may hold them.
    for number, line in enumerate(io.StringIO(_read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            record = _parsed(line, path, number)
        except DataError:
            if line.endswith("\n"):
                raise
            return
        yield record


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


def _parsed(text: str, path: Path, line: int | None = None) -> Record:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(path, f"is not JSON: {error.msg}", RERUN, line=line or error.lineno) from error
    if not isinstance(record, dict):
        raise DataError(path, f"holds a {type(record).__name__}, expected a JSON object", RERUN, line=line)
    return record


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(path, f"is not UTF-8 (byte {error.start})", RERUN) from error


RERUN = "Remove this trial's folder and run the same sweep command again"


def identity(value: Any) -> str:
    """Equal for equal values of any type; 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)
