"""The sweep of ``make demo``, as the Makefile runs it, in folders of its own and on other executors."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_audio_ft.sweep.events import EventReader, events_path
from tests.faults.sweeps import Place
from tests.trials_json import values

REPOSITORY = Path(__file__).resolve().parents[2]
# Seconds after which a command hangs; the sweep takes minutes on a free machine.
_TOO_LONG = 3600


def demo_commands() -> list[list[str]]:
    """What ``make demo`` has Python run, without the set-up: corpus, prepare, tokenize, and the sweep last."""
    told = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    lines = map(shlex.split, told.replace("\\\n", " ").splitlines())
    return [words[1:] for words in lines if words[1:2] == ["-m"] and words[2].startswith("kimi_audio_ft.")]


@dataclass
class Running:
    """A command that was started in a folder; what it prints goes to a file."""

    process: subprocess.Popen[str]
    printed: Path
    began: float

    @classmethod
    def start(cls, folder: Path, words: Sequence[str]) -> Running:
        """``python WORDS``, with the store where it is by default: in the folder."""
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        environment = {name: value for name, value in os.environ.items() if name != "KIMI_AUDIO_FT_STORE"}
        printed = folder / f"printed-{len(list(folder.glob('printed-*')))}.log"
        with printed.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, *words], cwd=folder, env=environment | {"PYTHONPATH": path}, text=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return cls(process, printed, time.monotonic())

    def seconds(self) -> float:
        """Wait for its good end; returns how long it took."""
        try:
            code = self.process.wait(_TOO_LONG)
        finally:
            self.process.kill()
        seconds = time.monotonic() - self.began
        assert code == 0, self.said()
        return seconds

    def said(self) -> str:
        """All that it has printed so far."""
        return self.printed.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Demo:
    """A folder with the demo's data, and a store that has nothing but its features, in which the sweep runs."""

    folder: Path
    options: tuple[str, ...]

    @classmethod
    def make_data(cls, folder: Path) -> Path:
        """Corpus, manifests and features; returns the folder, for ``beside``."""
        for words in demo_commands()[:-1]:
            Running.start(folder, words).seconds()
        return folder

    @classmethod
    def beside(cls, made: Path, folder: Path, *options: str) -> Demo:
        """In a new folder with a copy of what ``make_data`` has made."""
        shutil.copytree(made / "outputs", folder / "outputs")
        demo = cls(folder, options)
        assert not demo.place.products("adapter") and not demo.place.products("transcript")
        return demo

    @property
    def place(self) -> Place:
        """Its store, to be looked at."""
        return Place(self.folder, self.folder / "outputs" / "store")

    @property
    def sweep(self) -> Path:
        """The sweep's folder."""
        return self.folder / "outputs" / "demo" / "sweep"

    @property
    def words(self) -> list[str]:
        """The sweep's command."""
        return [*demo_commands()[-1], *self.options]

    def start(self) -> Running:
        """Start the sweep."""
        return Running.start(self.folder, self.words)

    def results(self, *also_incidental: str) -> dict[str, Any]:
        """All values of ``trials.json`` that must be equal."""
        return values(self.sweep, *also_incidental)

    def task_file(self, name: str) -> Path:
        """A task of the first run on a cluster."""
        return self.sweep / "packs" / "001" / f"{name}.json"

    def events(self, name: str) -> list[dict[str, Any]]:
        """What a task has told so far."""
        return [event.to_json() for event in EventReader(events_path(self.task_file(name))).read()]

    def step(self, name: str) -> int:
        """The optimizer step at which a task is now; 0: it does not train."""
        last = (self.events(name) or [{}])[-1]
        return int(last["step"]) if last.get("event") == "step" else 0


def process_of(task_file: Path) -> tuple[int, int]:
    """Ids of the process that makes a task, and of the cluster's process that has started it."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"kimi_audio_ft.sweep" in words and str(task_file).encode() in words:
                # "id (name) state parent group ..."; a name may hold spaces and brackets.
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                return int(folder.name), int(parent)
    raise AssertionError(f"no process makes {task_file}")
