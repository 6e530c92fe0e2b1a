"""The content-addressed store: ``<root>/<kind>/<signature>/``.

A product is made in a hidden folder beside its place and renamed when complete, under a lock, so it is either whole or
absent and two processes never make it twice. ``python -m kimi_audio_ft.store ls`` lists what is there.
"""

from __future__ import annotations

import argparse
import errno
import filecmp
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import store_root

KINDS = ("features", "adapter", "transcript")
META = "product.json"


def product_path(kind: str, signature: str) -> Path:
    """Where a product lies, or would lie."""
    assert kind in KINDS, kind
    return store_root() / kind / signature


def find(kind: str, signature: str) -> Path | None:
    """The finished product's folder, or None."""
    path = product_path(kind, signature)
    return path if (path / META).is_file() else None


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
    with lock(kind, signature):
        done = find(kind, signature)
        if done is not None:
            shutil.rmtree(work_folder(kind, signature), ignore_errors=True)  # its maker was killed right at the end
            return done, True
        draft = begin(kind, signature)
        try:
            facts = make(draft)
            return complete(kind, signature, facts), False
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise_if_full(error, product_path(kind, signature))
            raise


def begin(kind: str, signature: str) -> Path:
    """An empty folder to make a product in, for somebody who holds its lock."""
    draft = draft_folder(kind, signature)
    shutil.rmtree(draft, ignore_errors=True)  # left by a killed process; the lock says nobody is writing it
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise_if_full(error, draft)
        raise
    return draft


def complete(kind: str, signature: str, facts: dict[str, Any]) -> Path:
    """Put what was made in the folder of ``begin`` into its place, with facts to keep beside it."""
    place, draft = product_path(kind, signature), draft_folder(kind, signature)
    try:
        _write_meta(draft, kind, signature, facts)
        let_others_read(draft)
        shutil.rmtree(place, ignore_errors=True)  # without product.json it is no product
        draft.replace(place)
    except OSError as error:
        raise_if_full(error, place)
        raise
    shutil.rmtree(work_folder(kind, signature), ignore_errors=True)
    return place


def draft_folder(kind: str, signature: str) -> Path:
    """Where a product is made."""
    return product_path(kind, signature).with_name(f".{signature}.draft")


def work_folder(kind: str, signature: str) -> Path:
    """Scratch that survives a crash of the product's making and is removed when the product is complete."""
    return store_root() / kind / f".{signature}.work"


@contextmanager
def lock(kind: str, signature: str, timeout: float = -1) -> Iterator[None]:
    """Hold a product's lock; other processes wait, or get filelock's Timeout after so many seconds (-1: never)."""
    path = store_root() / kind / f".{signature}.lock"
    held = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout)
    except Timeout:  # an OSError too
        raise
    except OSError as error:
        raise_if_full(error, path)
        raise UserError(
            f"KIMI_AUDIO_FT_STORE: {path.parent} cannot be written ({error.strerror}). Name a writable folder"
        ) from None
    try:
        yield
    finally:
        held.release()


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


def _write_meta(folder: Path, kind: str, signature: str, facts: dict[str, Any]) -> None:
    meta = {"kind": kind, "signature": signature, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts}
    write_json(folder / META, meta)


def read_meta(folder: Path) -> dict[str, Any]:
    """Facts kept beside a product."""
    return json.loads((folder / META).read_text(encoding="utf-8"))


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


def products() -> list[dict[str, Any]]:
    """Every finished product: kind, signature, path, created, bytes."""
    found = []
    for kind in KINDS:
        for folder in sorted((store_root() / kind).glob("[!.]*")):
            if not (folder / META).is_file():
                continue
            meta = read_meta(folder)
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            found.append(
                {
                    "kind": kind,
                    "signature": folder.name,
                    "path": str(folder),
                    "created": meta["created"],
                    "bytes": size,
                }
            )
    return found


def main(arguments: list[str] | None = None) -> None:
    """``python -m kimi_audio_ft.store ls [--json]``."""
    parser = argparse.ArgumentParser(prog="python -m kimi_audio_ft.store", description="Look into the store.")
    listing = parser.add_subparsers(dest="action", required=True).add_parser("ls", help="list finished products")
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    options = parser.parse_args(arguments)
    found = products()
    if options.json:
        json.dump(found, sys.stdout, ensure_ascii=False, indent=1)
        print()
        return
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(title=f"Store {store_root()}")
    for column in ("kind", "signature", "created", "size"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for row in found:
        table.add_row(row["kind"], row["signature"], row["created"], decimal(row["bytes"]))
    Console().print(table)


if __name__ == "__main__":
    main()
