"""The folder that a command writes: it appears whole or not at all, with a record of what it was made of."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import let_others_read, read_json_object


def is_made(out: Path, record: str, facts: Mapping[str, Any], overwrite: bool, what: str) -> bool:
    """Whether ``out`` was made of these facts.

    Args:
        record: name of the file in it that has the facts. what: "merge" or the like, for messages.

    Raises:
        ConfigError: it holds something else, or another of its kind and not ``overwrite``.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    article = "an" if what[0] in "aeiou" else "a"
    if not (out / record).is_file():
        raise ConfigError("out", str(out), f"exists and does not hold {article} {what}", "Name a new folder")
    found = read_json_object(out / record, "Remove the folder")
    if found == facts:
        return True
    if not overwrite:
        other = sorted(key for key in found.keys() | facts.keys() if found.get(key) != facts.get(key))
        rule = f"holds another {what} ({', '.join(other)} differ)"
        raise ConfigError("out", str(out), rule, "Name a new folder, or set overwrite=true")
    return False


def refuse_inside(out: Path, inputs: Mapping[str, Path | None]) -> None:
    """Raise a ConfigError if ``out`` lies in a folder that is read, by the option that names it, or holds it."""
    for option, folder in inputs.items():
        read = folder and folder.resolve()
        if read is not None and (out == read or read in out.parents or out in read.parents):
            raise ConfigError("out", str(out), f"must not lie in {option}={read}, nor hold it", "Name another")


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """A hidden sibling of ``out`` that replaces it at the end; it is removed on any error, or by the next run after a
    kill.

    Raises:
        ConfigError: the disk is full, or the folder cannot be written.
    """
    draft = out.with_name(f".{out.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        let_others_read(draft)
        old = out.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if out.is_dir():
            out.replace(old)
        draft.replace(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        rule = "the disk is full; nothing half-written was kept" if full else f"cannot be written ({error.strerror})"
        raise ConfigError("out", str(out), rule, "Free space there, or name another folder") from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
