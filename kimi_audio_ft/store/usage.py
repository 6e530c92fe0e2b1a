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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import IO, Any

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


class Use:
    """Marks products as in use by a sweep, from ``begin`` to ``end`` or to the end of the process.

    A product is safe from pruning once it has been named; look for it in the store after that.
    """

    def __init__(self, sweep_folder: Path) -> None:
        self.sweep = sweep_folder.absolute()
        self._named: set[Name] = set()
        self._held: IO[str] | None = None

    @classmethod
    def begin(cls, sweep_folder: Path, products: Iterable[Name] = ()) -> Use:
        """Mark a sweep as running in this folder; a context manager that ends the use."""
        use = cls(sweep_folder)
        _ACTIVE.append(use)
        use._write(products, hold=True)
        return use

    def add(self, products: Iterable[Name]) -> None:
        """Name more products."""
        self._write(products, hold=False)

    def end(self) -> None:
        """The sweep no longer runs; the record of what it used stays."""
        if self in _ACTIVE:
            _ACTIVE.remove(self)
        if self._held is not None:
            self._held.close()  # which lets go of the lock
            self._held = None

    def __enter__(self) -> Use:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def _write(self, products: Iterable[Name], hold: bool) -> None:
        new = [product for product in products if product not in self._named]
        if not new and not hold:
            return
        self._named |= set(new)
        try:
            with gate():
                if hold:
                    self._hold()
                self._record(new)
        except (UserError, OSError) as error:  # a store that can only be read, or is full: nothing is lost by it
            log.debug("%s: not recorded in the store: %s", self.sweep, error)

    def _hold(self) -> None:
        held = _running_file(self.sweep).open("a+")
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)  # only ``is_running`` takes it alone, with the gate held
        self._held = held

    def _record(self, products: Iterable[Name]) -> None:
        path, now = _record_file(self.sweep), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        before = _read(path)
        used = {**(before.products if before else {}), **dict.fromkeys(products, now)}
        write_json(
            path,
            {
                "sweep": str(self.sweep),
                "started": before.started if before else now,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "products": {f"{kind}/{signature}": when for (kind, signature), when in used.items()},
            },
        )


# Uses of this process.
_ACTIVE: list[Use] = []


@contextmanager
def using(sweep_folder: Path) -> Iterator[Use]:
    """This process's use by a sweep, begun now unless a caller has begun it."""
    for use in _ACTIVE:
        if use.sweep == sweep_folder.absolute():
            yield use
            return
    with Use.begin(sweep_folder) as use:
        yield use


def note(products: Iterable[Name]) -> None:
    """Name products in every use of this process, before they are looked for."""
    named = list(products)
    for use in _ACTIVE:
        use.add(named)


@dataclass(frozen=True)
class Record:
    """What a sweep used. products: the time of each one's last use. file: where this is recorded. host: whose it is."""

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
        except BlockingIOError:
            return True
        except OSError:  # no such file, or one that may not be opened
            return False
        return False


def records() -> list[Record]:
    """What every sweep used, in the order of the first starts."""
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
    with suppress(OSError, ValueError, KeyError, AttributeError):
        facts: dict[str, Any] = loads(path.read_text(encoding="utf-8"))
        products = {_name(text): when for text, when in facts["products"].items()}
        return Record(Path(facts["sweep"]), facts["started"], products, path, facts.get("host"))
    return None


def _name(text: str) -> Name:
    kind, _, signature = text.partition("/")
    return kind, signature
