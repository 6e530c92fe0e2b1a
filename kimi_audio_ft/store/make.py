"""The content-addressed store: ``<root>/<kind>/<signature>/``.

A product is made in a hidden folder and renamed when it is complete, under a lock, so it is either whole or absent and
two processes never make it twice. Its ``product.json`` holds a sha256 of every file; a product that differs from them
is treated as absent, and set aside when it is made again.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import let_others_read, locked, raise_if_full, write_json
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.runtime.signals import leave_if_asked
from kimi_audio_ft.store.digests import State, file_digest, sha256_of, state_of

log = logging.getLogger(__name__)

KINDS = ("features", "adapter", "transcript", "qwen2")
CACHES = {
    "manifests": "columns of a manifest",
    "sounds": "checks of noise and rooms",
    "layouts": "names of a model's modules",
    "cuts": "pauses at which a recording is cut",
    "probes": "pack size found by a probe",
    "rungs": "score of an adapter at a rung",
    "scores": "scores of transcripts, and of every utterance",
    "report": "scripts of the report",
    "clips": "recordings as reports embed them",
}
"""Kinds of cached values (see ``cache.py``), and what each value is."""
CORRUPT = ".corrupt-"
"""Start of the names of damaged products that were set aside."""
META = "product.json"
HASHES = "sha256"
"""Key in META of the hashes of a product's other files, by path in its folder; those that grow have none."""
GROWS = "grows"
"""Key in META, true for transcripts that grow by what is transcribed; features always grow."""

# Whether products that this process has looked at are whole, by path and state of their META.
_Seen = tuple[str, State]
_WHOLE: dict[_Seen, bool] = {}
# Bytes from which looking up a file's hash is faster than reading the file.
_LARGE = 1 << 20
# Seconds of waiting for a lock between two looks at whether to stop.
_PATIENCE = 1.0


def product_path(kind: str, signature: str) -> Path:
    """Folder of a product, whether it is there or not."""
    assert kind in KINDS, kind
    return store_root() / kind / signature


def find(kind: str, signature: str) -> Path | None:
    """The finished product's folder; None when it is not there, or damaged (its files are compared once a process)."""
    path = product_path(kind, signature)
    while (seen := _look(path)) is not None:
        if seen in _WHOLE:
            return path if _WHOLE[seen] else None
        problem = damage(path)
        if _look(path) != seen:  # removed, or made again, in this moment
            continue
        _WHOLE[seen] = problem is None
        if problem is not None:
            log.warning("%s is corrupted: %s. It is not used; what needs it makes it again", path, problem)
    return None


def _look(path: Path) -> _Seen | None:
    try:
        status = (path / META).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return str(path), state_of(status)


def damage(folder: Path, remembered: bool = True) -> str | None:
    """Problem of a product's files by their hashes, in words, or None; products without hashes are fine.

    Args:
        remembered: large files are not read again while their size and time of change are those of an earlier reading.
    """
    try:
        hashes = dict(read_meta(folder).get(HASHES, {}))
    except (ValueError, TypeError, AttributeError, OSError):
        return f"{META} cannot be read"
    for name, wanted in hashes.items():
        try:
            large = (folder / name).stat().st_size >= _LARGE
            found = (file_digest if remembered and large else sha256_of)(folder / name)
        except (FileNotFoundError, NotADirectoryError, DataError):
            if (folder / name).is_file():  # but it cannot be read
                raise
            return f"{name} is missing"
        if found != wanted:
            return f"the sha256 of {name} is not the one in {META}"
    return None


def find_or_make(kind: str, signature: str, make: Callable[[Path], dict[str, Any]]) -> tuple[Path, bool]:
    """A finished product's folder, made now if it is not there.

    Args:
        make: fills the empty folder it is given and returns facts to keep beside the product (JSON values). It may use
            ``work_folder(kind, signature)`` for what should survive a crash, such as training checkpoints.

    Returns:
        The folder, and whether the product was already there.

    Raises:
        UserError: the disk is full; nothing half-written stays.
    """
    if find(kind, signature) is not None:  # without the lock, because the store may be read-only
        _forget_work(kind, signature)
        return product_path(kind, signature), True
    made = _make_missing(kind, [signature], lambda drafts: {signature: make(drafts[signature])})
    return product_path(kind, signature), not made


AT_ONCE = 64
"""Products made in one go, at most: each is a held lock."""


def find_or_make_all(
    kind: str,
    signatures: Sequence[str],
    make: Callable[[Mapping[str, Path]], Mapping[str, dict[str, Any]]],
) -> dict[str, Path]:
    """Folders of finished products by signature; those that are not there are made together.

    Args:
        make: is given the empty folders of what is missing, by signature, fills them all and returns each one's facts.
            It is not called when nothing is missing, and more than once when more than ``AT_ONCE`` are.

    All locks are taken in the order of the signatures, so that processes which ask for some of the same products never
    wait for each other in a circle. Under the locks every product is looked for again. When ``make`` fails, or its
    process dies, none of them is there.
    """
    missing = sorted({name for name in signatures if find(kind, name) is None})
    for start in range(0, len(missing), AT_ONCE):
        _make_missing(kind, missing[start : start + AT_ONCE], make)
    return {name: product_path(kind, name) for name in signatures}


def _make_missing(
    kind: str, signatures: Sequence[str], make: Callable[[Mapping[str, Path]], Mapping[str, dict[str, Any]]]
) -> bool:
    """Make the products that are still not there once their locks are held; returns whether there were any."""
    with ExitStack() as locks:
        for name in signatures:
            locks.enter_context(waited_for(kind, name))
        missing = [name for name in signatures if find(kind, name) is None]
        try:
            facts = make({name: begin(kind, name) for name in missing}) if missing else {}
            for name in missing:
                complete(kind, name, facts[name])
        except BaseException as error:
            for name in missing:
                discard(kind, name)
            raise_if_full(error, product_path(kind, missing[0]))
            raise
    return bool(missing)


def waited_for(kind: str, signature: str, doing: str = "") -> ExitStack:
    """A product's lock, held; says so where another process has it, perhaps for hours.

    Args:
        doing: what that process is doing, in words, if not making the product.

    Raises:
        Interrupted: this process was asked to stop meanwhile (``StopRequest``).
    """
    held, patience = ExitStack(), 0.0
    while True:
        try:
            held.enter_context(lock(kind, signature, patience))
            return held
        except Timeout:
            if not patience:
                log.info("waiting for another process, which is %s", doing or f"making {kind} {signature}")
            leave_if_asked()
            patience = _PATIENCE


def begin(kind: str, signature: str) -> Path:
    """An empty folder to make a product in, for the holder of its lock."""
    draft = draft_folder(kind, signature)
    if find(kind, signature) is None:
        set_aside(kind, signature)  # what is there is damaged, or no product
    shutil.rmtree(draft, ignore_errors=True)  # left by a killed process; the lock says nobody is writing it
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise_if_full(error, draft)
        raise
    return draft


def complete(kind: str, signature: str, facts: dict[str, Any]) -> Path:
    """Rename the folder of ``begin`` to the product's, with facts to keep beside it."""
    path, draft = product_path(kind, signature), draft_folder(kind, signature)
    try:
        files = sorted(file for file in draft.rglob("*") if file.is_file())
        hashes = {file.relative_to(draft).as_posix(): sha256_of(file) for file in files}
        write_meta(draft, kind, signature, {**facts, HASHES: hashes})
        let_others_read(draft)
        if find(kind, signature) is not None:  # another process made it before the lock was ours, and uses it
            shutil.rmtree(draft)
            return path
        draft.replace(path)
        if (seen := _look(path)) is not None:
            _WHOLE[seen] = True
    except OSError as error:
        raise_if_full(error, path)
        raise
    shutil.rmtree(work_folder(kind, signature), ignore_errors=True)
    return path


def discard(kind: str, signature: str) -> None:
    """Remove what ``begin`` has begun, unless it was completed."""
    shutil.rmtree(draft_folder(kind, signature), ignore_errors=True)


def set_aside(kind: str, signature: str) -> Path | None:
    """Rename what has a product's name, for the holder of its lock; returns where it is kept, or None."""
    path = product_path(kind, signature)
    aside = path.with_name(f"{CORRUPT}{signature}.{time.time_ns()}")
    try:
        path.replace(aside)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise_if_full(error, path)
        raise
    if not (aside / META).is_file():  # a product that never was complete
        shutil.rmtree(aside, ignore_errors=True)
        return None
    log.warning("%s was corrupted and is kept as %s, to look at and remove", path, aside)
    return aside


def _forget_work(kind: str, signature: str) -> None:
    """Remove a finished product's scratch: its maker was killed right at the end."""
    work = work_folder(kind, signature)
    if work.is_dir():
        with suppress(Timeout, UserError), lock(kind, signature, timeout=0):
            if find(kind, signature) is not None:
                shutil.rmtree(work, ignore_errors=True)


def draft_folder(kind: str, signature: str) -> Path:
    return product_path(kind, signature).with_name(f".{signature}.draft")


def work_folder(kind: str, signature: str) -> Path:
    """Scratch that survives a crash of the product's making and is removed when the product is complete."""
    return store_root() / kind / f".{signature}.work"


@contextmanager
def lock(kind: str, signature: str, timeout: float = -1) -> Iterator[None]:
    """Hold a product's lock; other processes wait, or get filelock's Timeout after so many seconds (-1: never)."""
    path, held = store_root() / kind / f".{signature}.lock", ExitStack()
    try:
        held.enter_context(locked(path, timeout))
    except Timeout:  # an OSError too
        raise
    except OSError as error:
        raise_if_full(error, path)
        raise UserError(
            f"KIMI_AUDIO_FT_STORE: {path.parent} cannot be written ({error.strerror}), and {kind} {signature} is not "
            "there. Name a writable folder"
        ) from None
    with held:
        yield


def write_meta(folder: Path, kind: str, signature: str, facts: dict[str, Any]) -> None:
    """Write ``product.json``, which makes the folder a product."""
    meta = {"kind": kind, "signature": signature, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts}
    write_json(folder / META, meta)


def read_meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / META).read_text(encoding="utf-8"))
