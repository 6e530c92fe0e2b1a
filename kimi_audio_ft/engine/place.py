"""Where a task is to be made: what a process on another machine must see as the sweep does."""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import raise_if_full, write_json
from kimi_audio_ft.paths import CHECKOUT, project_root, store_root

# Variables that decide what a task reads and computes. Nothing secret is among them: they are written to a file.
_TRAVELLING = (
    *("KIMI_AUDIO_FT_ROOT", "KIMI_AUDIO_FT_TRACEBACK", "PYTHONPATH", "OMP_NUM_THREADS", "MKL_CBWR"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"),
)


@dataclass(frozen=True)
class Place:
    """Of a task. folder: where relative paths begin. witness: a file in the store that every node must see."""

    folder: str
    environment: dict[str, str]
    store: str
    witness: str

    @classmethod
    def beside(cls, task_file: Path) -> Path:
        """Where the place of a task file is written."""
        return task_file.with_name(f"{task_file.name}.place.json")

    def write(self, task_file: Path) -> None:
        """Keep it beside a task file."""
        write_json(self.beside(task_file), asdict(self))

    @classmethod
    def read(cls, task_file: Path) -> Place | None:
        """The place of a task file, if it has one."""
        path = cls.beside(task_file)
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def enter(self) -> None:
        """Make this process see what the sweep sees.

        Raises:
            UserError: this machine does not see the sweep's folder or store.
        """
        os.environ.update(self.environment)
        os.environ["KIMI_AUDIO_FT_STORE"] = self.store
        host, shared = socket.gethostname(), "It must lie on a file system that all nodes share"
        if not Path(self.folder).is_dir():
            raise UserError(f"{self.folder}: the sweep's working folder is not there on {host}. {shared}")
        os.chdir(self.folder)
        if not (Path(self.store) / self.witness).is_file():
            raise UserError(f"KIMI_AUDIO_FT_STORE: {host} does not see the sweep's store {self.store}. {shared}")


def this_place() -> Place:
    """This process's place.

    Raises:
        UserError: the store cannot be written.
    """
    environment = {name: os.environ[name] for name in _TRAVELLING if name in os.environ}
    environment["PYTHONPATH"] = python_path()
    return Place(str(Path.cwd()), environment, str(store_root()), _witness(store_root()))


def _witness(store: Path) -> str:
    """Name of a file that this store has and no other: a node's folder of the same path could be its own disk's."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        for path in sorted(store.glob(".store-*")):
            return path.name
        path = store / f".store-{uuid.uuid4().hex}"
        path.touch()
    except OSError as error:
        raise_if_full(error, store)
        raise UserError(f"KIMI_AUDIO_FT_STORE: {store} cannot be written ({error.strerror})") from None
    return path.name


def python_path() -> str:
    """PYTHONPATH for another process that is to import this very package."""
    entries = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if project_root() == CHECKOUT and str(CHECKOUT) not in entries:
        entries.append(str(CHECKOUT))
    return os.pathsep.join(entries)
