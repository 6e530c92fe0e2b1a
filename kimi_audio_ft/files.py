"""Writing files whole or not at all, locks, reading JSON and YAML, and in words a full disk or one without locks."""

from __future__ import annotations

import errno
import filecmp
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from filelock import FileLock

from kimi_audio_ft.errors import DataError, UserError

# The same in C where PyYAML was built with it, ten times as fast.
_YAML: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Says in which file each of a checkpoint's tensors lies.
INDEX_NAME = "model.safetensors.index.json"
# Errors of flock where the file system has none; Lustre and NFS can be mounted like that.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def says_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, or a user's part of it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors reports the system's error as text of its own exception type.
    return any(said in str(error) for said in ("No space left on device", "os error 28", "os error 122"))


def raise_if_full(error: BaseException, path: Path) -> None:
    """Raise a UserError if the disk is full; any other error is left to the caller."""
    cause: BaseException | None = error
    while cause is not None:
        if says_full(cause):
            raise UserError(
                f"{path}: the disk is full; nothing half-written was kept. Free space there, or set "
                "KIMI_AUDIO_FT_STORE to a larger disk, and run the same command again"
            ) from error
        cause = cause.__cause__ or cause.__context__


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of a file that serves for nothing else; whoever shares its folder can take it.

    It is the kernel's, and ends with its process. A file that is removed by the holder of its lock is made again by
    those who wait for it.

    Args:
        timeout: seconds after which to give up with filelock's Timeout; -1: never.

    Raises:
        UserError: the file system has no locks. filelock's own substitute outlives a killed process on another machine,
            and it cannot say of a use whether it lasts, so that products in use would be removed.
    """
    held = FileLock(path, timeout, mode=0o666, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UserError(
            f"{path.parent}: its file system has no locks (flock: {error.strerror}), so processes would overwrite each "
            "other's files there. Name a folder on another one (KIMI_AUDIO_FT_STORE is the store's), or have this one "
            "mounted with locks"
        ) from None
    try:
        yield
    finally:
        held.release()


def let_others_read(folder: Path) -> None:
    """Give files the usual permissions: safetensors writes them for their owner alone, whatever the umask is."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A hidden neighbour of ``path`` to write to, renamed to ``path`` at the end; UserError if the disk is full.

    A reader finds the old file or the new one, never half of one, whoever is killed and however many write at once: the
    neighbour's name is unique. A file with the same content is left alone, so that its time of change stays.
    """
    draft = path.with_name(f".{path.name}.{uuid4().hex}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if path.is_file() and filecmp.cmp(draft, path, shallow=False):
            draft.unlink()
        else:
            draft.replace(path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        if not isinstance(error, UserError):
            raise_if_full(error, path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all, line ends as they are."""
    with written_aside(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


def write_changed(path: Path, text: str) -> None:
    """Write a UTF-8 file in place, unless that is its text: to read it is faster than to write it."""
    with suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int = 1) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, as they come, whole or not at all."""
    with written_aside(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(map(jsonl_line, rows))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add one JSON object per line, behind a new line where a killed process has left half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write("".join(map(jsonl_line, rows)).encode())


_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


def jsonl_line(row: Mapping[str, Any]) -> str:
    return _ENCODE(row) + "\n"


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
