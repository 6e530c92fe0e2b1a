"""The folder that a command writes: it appears whole or not at all, with a record of what it was made of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kimi_audio_ft import store
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.files import let_others_read, read_json_object, says_full
from kimi_audio_ft.store.signature import digest_of


def is_made(
    out: Path,
    record: str,
    facts: Mapping[str, Any],
    overwrite: bool,
    what: str,
    key: str | None = None,
    beside: Collection[str] = (),
) -> bool:
    """Whether ``out`` was made of these facts.

    Args:
        record: name of the file in it that has the facts. what: "merge" or the like, for messages. key: of the facts in
            the record, where it has more than these. beside: keys in it that the folder's content does not depend on.

    Raises:
        ConfigError: it holds something else, or another of its kind and not ``overwrite``.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    article = "an" if what[0] in "aeiou" else "a"
    if not (out / record).is_file():
        raise ConfigError("out", str(out), f"exists and does not hold {article} {what}", "Name a new folder")
    found = read_json_object(out / record, "Remove the folder")
    if key is not None:
        found = dict(found.get(key) or {})  # an older record has none
    found = {name: value for name, value in found.items() if name not in beside}
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
def drafted(out: Path, is_done: Callable[[], bool]) -> Iterator[Path | None]:
    """A hidden sibling of ``out`` that replaces it at the end; None where ``is_done``, which is asked first, says that
    there is nothing to do. Another process that would write ``out`` waits for the end.

    The draft is removed on any error; after a kill, by the next run, which also puts back a folder that was about to be
    replaced.

    Raises:
        ConfigError: the disk is full, or the folder cannot be written.
    """
    draft, old = out.with_name(f".{out.name}.draft"), out.with_name(f".{out.name}.old")
    with store.lock("merge", digest_of(str(out))):
        with _errors_of(out):
            _put_back(old, out)
        if is_done():
            yield None
            return
        try:
            with _errors_of(out):
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
            with _errors_of(out, draft):
                yield draft
            with _errors_of(out):
                let_others_read(draft)
                _replace(out, draft, old)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _replace(out: Path, draft: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    try:
        if out.is_dir():
            out.replace(old)
        draft.replace(out)
    except BaseException:
        _put_back(old, out)
        raise
    if old.is_dir():
        old.replace(draft)  # under the name of what is never put back, as a kill may leave half of it
    shutil.rmtree(draft, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    if old.is_dir() and not out.exists():
        old.replace(out)


@contextmanager
def _errors_of(out: Path, draft: Path | None = None) -> Iterator[None]:
    """ConfigErrors about ``out`` in place of the system's errors: all, or only those about files in ``draft``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        is_full = says_full(error)
        if not (is_full or isinstance(error, OSError)) or (draft is not None and not _is_about(error, draft)):
            raise
        rule = f"cannot be written ({getattr(error, 'strerror', None) or error})"
        rule = "the disk is full; nothing half-written was kept" if is_full else rule
        raise ConfigError("out", str(out), rule, "Free space there, or name another folder") from error


def _is_about(error: Exception, folder: Path) -> bool:
    """Whether an error concerns a file in a folder.

    Errors without a file name (a write to an open file, safetensors) count if they say that the disk is full.
    """
    if not isinstance(error, OSError) or error.filename is None:
        return says_full(error) or isinstance(error, shutil.Error)  # of copying a folder into it
    named = isinstance(error.filename, str | bytes | os.PathLike)
    return named and folder in (path := Path(os.fsdecode(error.filename)), *path.parents)
