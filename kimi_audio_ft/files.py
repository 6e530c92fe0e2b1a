"""Files that are written aside and renamed, and a full disk in words."""

from __future__ import annotations

import errno
import filecmp
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from kimi_audio_ft.errors import DataError, UserError

# The same in C where PyYAML was built with it, ten times as fast.
_YAML: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def raise_if_full(error: BaseException, place: Path) -> None:
    """Turn 'no space left' into words; anything else is left to the caller."""
    seen: BaseException | None = error
    while seen is not None:
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors reports the system's error as text of its own exception type.
        if full or "No space left on device" in str(seen) or "os error 28" in str(seen):
            raise UserError(
                f"{place}: the disk is full; nothing half-written was kept. Free space there, or set "
                "KIMI_AUDIO_FT_STORE to a larger disk, and run the same command again"
            ) from error
        seen = seen.__cause__ or seen.__context__


def let_others_read(folder: Path) -> None:
    """Give files the usual permissions: safetensors writes them for their owner alone, whatever the umask is."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside and rename, so that a killed process never leaves half a file."""
    with _aside(path) as draft:
        draft.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line as they come, aside and renamed."""
    with _aside(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if path.is_file() and filecmp.cmp(draft, path, shallow=False):
            draft.unlink()  # the same again: the file keeps its time, so nothing that watches it stirs
        else:
            draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        raise_if_full(error, path)
        raise


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a file that this project wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_yaml(path: Path, remedy: str) -> Any:
    """The YAML document in a file, interpolations as written, or a DataError."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", remedy) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(path, f"is not YAML ({error})", remedy) from None


def parse_yaml(text: str) -> Any:
    """A YAML document of plain values. Raises yaml.YAMLError."""
    return yaml.load(text, _YAML)


# --- JSON objects in a model's folder, and files that appear whole or not at all.

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
