"""Which sweeps used which products: so that pruning leaves alone what a running sweep uses.

``<root>/uses/<hash of the sweep's folder>.json`` names the folder and its products, each with the time of its last use:
adapters, with which their transcripts are used too. Features are used by whatever runs.
While a process runs the sweep it holds ``.<hash>.running`` (a shared lock: several may run parts of one sweep), which
ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from json import loads
from pathlib import Path
from typing import Any

from filelock import Timeout

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import write_json
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.make import lock
from kimi_audio_ft.store.signature import digest_of

log = logging.getLogger(__name__)

FOLDER = "uses"
Name = tuple[str, str]
"""Kind and signature of a product."""


@contextmanager
def gate(timeout: float = -1) -> Iterator[None]:
    """The lock of marking products as used and of removing them; look for a product after it was released."""
    with lock(FOLDER, "gate", timeout):
        yield


# Sweeps that this process runs, each with what it has named.
_RUNNING: dict[Path, set[Name]] = {}


@contextmanager
def using(sweep_folder: Path) -> Iterator[None]:
    """Marks the sweep in this folder as running, to the end of the block or of the process; inner calls add nothing.

    A product is safe from pruning once it has been named (see ``note``); look for it in the store after that. The
    record of what the sweep used stays.
    """
    sweep = sweep_folder.absolute()
    if sweep in _RUNNING:
        yield
        return
    with ExitStack() as held:
        _RUNNING[sweep] = set()
        held.callback(_RUNNING.pop, sweep)
        _record(sweep, (), held)
        yield


def note(products: Iterable[Name]) -> None:
    """Name products as used by every sweep that this process runs, before they are looked for."""
    named = list(products)
    for sweep, known in _RUNNING.items():
        new = [name for name in named if name not in known]
        if new:
            known.update(new)
            _record(sweep, new)


def _record(sweep: Path, products: Iterable[Name], held: ExitStack | None = None) -> None:
    """Write what a sweep uses. ``held`` takes the lock that says it is running."""
    path, now = _record_file(sweep), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    try:
        with gate():
            if held is not None:
                running = held.enter_context(_running_file(sweep).open("a+"))
                with suppress(PermissionError):  # another user's
                    os.fchmod(running.fileno(), 0o666)
                fcntl.flock(running, fcntl.LOCK_SH | fcntl.LOCK_NB)  # only ``is_running`` takes it alone, in the gate
            before = _read(path)
            used = {**(before.products if before else {}), **dict.fromkeys(products, now)}
            facts = {
                "sweep": str(sweep),
                "started": before.started if before else now,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "products": {f"{kind}/{signature}": when for (kind, signature), when in used.items()},
            }
            write_json(path, facts)
    except (UserError, OSError) as error:  # a store that can only be read, or is full
        message = "%s: its use of the store is not recorded, so `store prune` may remove what it uses: %s"
        log.log(logging.DEBUG if held is None else logging.WARNING, message, sweep, error)


@dataclass(frozen=True)
class Record:
    """Use of products by a sweep.

    products: the time of each one's last use. file: where this is recorded. host: whose it is.
    """

    sweep: Path
    started: str
    products: Mapping[Name, str]
    file: Path
    host: str | None = None

    def is_running(self) -> bool:
        """Whether a process runs it now; call it with the gate held."""
        try:
            with _running_file(self.sweep).open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # of another user's sweep nobody else can tell
            return True
        except OSError:  # no such file, or one that may not be opened
            return False
        return False


def records() -> list[Record]:
    """Records of all sweeps, in the order of their first starts."""
    found = [_read(path) for path in sorted((store_root() / FOLDER).glob("[!.]*.json"))]
    return sorted((record for record in found if record is not None), key=lambda record: record.started)


def is_alive(sweep_folder: Path) -> bool | None:
    """Whether a process of this machine runs the sweep in a folder.

    None where this store cannot tell: it has no record of the sweep, the last process that wrote it ran on another
    machine (whose locks may not show here), or the store cannot be locked now.
    """
    sweep = sweep_folder.absolute()
    record = _read(_record_file(sweep))
    if record is None or record.host != socket.gethostname() or not os.access(_running_file(sweep), os.R_OK | os.W_OK):
        return None
    try:
        with gate(timeout=0):
            return record.is_running()
    except (UserError, OSError):  # held by another process, or a read-only store
        return None


def forget(record: Record) -> None:
    """Remove the record of a sweep that does not run; call it with the gate held."""
    record.file.unlink(missing_ok=True)
    _running_file(record.sweep).unlink(missing_ok=True)


def is_locked(kind: str, signature: str) -> bool:
    """Whether a process makes the product now, or is adding to it (each shard of features has a lock)."""
    own = f".{signature}."
    names = [path.name for path in (store_root() / kind).glob(f"{own}*lock")]
    try:
        for name in names:
            with lock(kind, name.removeprefix(".").removesuffix(".lock"), timeout=0):
                pass
    except Timeout:
        return True
    return False


def _record_file(sweep: Path) -> Path:
    return store_root() / FOLDER / f"{digest_of(str(sweep))}.json"


def _running_file(sweep: Path) -> Path:
    return store_root() / FOLDER / f".{digest_of(str(sweep))}.running"


def _read(path: Path) -> Record | None:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        facts: dict[str, Any] = loads(path.read_text(encoding="utf-8"))
        products = {tuple(text.split("/", 1)): when for text, when in facts["products"].items()}
        for when in (facts["started"], *products.values()):
            datetime.fromisoformat(when)  # a ValueError: not a record of ours
        return Record(Path(facts["sweep"]), facts["started"], products, path, facts.get("host"))
    return None
