"""JSON objects in a model's folder, and files that appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import DataError

# Says in which file each of a checkpoint's tensors lies.
INDEX_NAME = "model.safetensors.index.json"


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file, or a DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", remedy) from None
    except ValueError as error:
        raise DataError(path, f"is not JSON ({error})", remedy) from None
    if not isinstance(value, dict):
        raise DataError(path, "is not a JSON object", remedy)
    return value


def save_json(value: Mapping[str, Any], path: Path) -> None:
    """Write an object as indented UTF-8 JSON."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A neighbouring path to write to, renamed to ``path`` at the end: a killed run leaves no half file."""
    aside = path.with_name(f".{path.name}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
