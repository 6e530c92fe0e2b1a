"""Sweeps as process groups that can be killed whole, and what is left to look at afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from kimi_audio_ft.store.inventory import Product, problem
from tests.forkserver import fork_command

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = "kimi_audio_ft.train"
# Three adapters, two trials of each; twice as many where a long run was asked for (see test_kills.py).
SIX = ("lora.r=2,4,8", "optim.lr=1e-3", "decoding.text_temperature=0.0,0.7")
TWELVE = ("lora.r=2,4,8", "optim.lr=1e-3,3e-3", "decoding.text_temperature=0.0,0.7")
SWEPT, ADAPTERS = (TWELVE, 6) if "KIMI_AUDIO_FT_KILLS" in os.environ else (SIX, 3)
# Short trainings with a checkpoint after every second step, in two packs side by side.
SHORT = (
    "data.train_manifest=data/train.tokens.jsonl",
    "data.eval_manifest=data/eval.tokens.jsonl",
    "trainer.max_steps=6",
    "trainer.save_every=2",
    "trainer.progress=false",
    "decoding.max_new_tokens=6",
    "logger=none",
    f"hydra.launcher.pack_size={-(-ADAPTERS // 2)}",
    "hydra.sweep.dir=sweep",
)
# What may differ between an undisturbed sweep and one that took several attempts.
_OF_THE_ATTEMPT = ("train_seconds", "train_reused", "decode_seconds", "git_commit", "environment", "command")
# Seconds after which a command hangs.
_TOO_LONG = 900
# Seconds between two looks at processes that are about to end.
_SOON = 0.05
# One that was started as a new Python, or that was forked.
Process = subprocess.Popen[str] | BaseProcess


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and all that it printed."""

    code: int
    said: str


@dataclass
class Running:
    """A command with all its children, in a process group of their own; what they say goes to a file."""

    process: Process
    printed: Path

    def wait(self) -> Outcome:
        """To its end."""
        try:
            until(lambda: self.ended() is not None)
        finally:
            self.kill()
        code = self.ended()
        assert code is not None
        return Outcome(code, self.printed.read_text(encoding="utf-8"))

    def ended(self) -> int | None:
        """The command's exit code once it has ended, as subprocess has it."""
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def used(self, seconds: float) -> bool:
        """Wait until it has used so many seconds of the processors, which other load does not bring nearer; false when
        the command ended before."""
        until(lambda: self.ended() is not None or self.processor_seconds() >= seconds)
        return self.ended() is None

    def kill_alone(self) -> None:
        """Kill -9 the command's process, and none of its children."""
        os.kill(self.group, signal.SIGKILL)
        until(lambda: self.ended() is not None)

    def processor_seconds(self) -> float:
        """What the group's processes, and children of theirs that have ended, have used."""
        ticks = 0
        for number in self.members():
            with suppress(OSError):
                fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """Kill -9 the whole group and see it gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
        until(lambda: not self.members() and self.ended() is not None)

    @property
    def group(self) -> int:
        """The id of the command's process and of its group."""
        assert self.process.pid is not None
        return self.process.pid

    def members(self) -> list[int]:
        """Ids of the group's processes that live."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                # "id (name) state parent group ..."; a name may hold spaces and brackets.
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.group and state != "Z":
                    found.append(int(stat.parent.name))
        return found

    def children(self) -> list[int]:
        """Ids of the processes that work for the command: spawned by it, with its log of packs open."""
        return [number for number in self.members() if number != self.group and _writes(number, "packs.log")]


def _writes(number: int, name: str) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{number}/fd/1").readlink().name == name
    return False


def until(happened: Any, patience: float = _TOO_LONG) -> None:
    """Wait until something is so."""
    end = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < end, "what was waited for has not happened"
        time.sleep(_SOON)


@dataclass(frozen=True)
class Place:
    """A folder with data and a store in which sweeps run."""

    folder: Path
    store: Path

    def start(self, *overrides: str, **environment: str) -> Running:
        """Start ``train -m`` with SHORT and these overrides, forked where the libraries are imported already."""
        printed = self._printed()
        arguments = ("-m", *SHORT, *overrides)
        process = fork_command(TRAIN, arguments, self.folder, self._environment() | environment, printed)
        return Running(process, printed)

    def start_python(self, *overrides: str) -> Running:
        """Start it as a person does, as a new Python."""
        printed = self._printed()
        with printed.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", TRAIN, "-m", *SHORT, *overrides], cwd=self.folder, env=self._environment(),
                text=True, start_new_session=True, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return Running(process, printed)

    def _printed(self) -> Path:
        return self.folder / f"printed-{len(list(self.folder.glob('printed-*')))}.log"

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        return os.environ | {"PYTHONPATH": path, "KIMI_AUDIO_FT_STORE": str(self.store)}

    def sweep(self, *overrides: str) -> Outcome:
        """Run a sweep to its end."""
        return self.start(*overrides).wait()

    def trials(self, folder: str = "sweep") -> list[dict[str, Any]]:
        """The sweep's ``trials.json`` without what depends on how many attempts it took."""
        table = json.loads((self.folder / folder / "trials.json").read_text(encoding="utf-8"))
        return [{key: value for key, value in row.items() if key not in _OF_THE_ATTEMPT} for row in table["trials"]]

    def products(self, kind: str) -> dict[str, tuple[int, int]]:
        """Inode and time of change of every finished product's record: another one was made again."""
        found = {}
        for meta in (self.store / kind).glob("[!.]*/product.json"):
            status = meta.stat()
            found[meta.parent.name] = (status.st_ino, status.st_mtime_ns)
        return found

    def damaged(self) -> list[str]:
        """What is wrong with whatever in the store looks finished."""
        found = []
        for kind in ("features", "adapter", "transcript"):
            for folder in (self.store / kind).glob("[!.]*"):
                if (folder / "product.json").exists():
                    said = problem(Product(kind, folder.name, str(folder), "", 0, "", "", []))
                    found += [f"{folder}: {said}"] if said else []
        return found

    def set_aside(self) -> list[str]:
        """Products that somebody has found to be damaged."""
        return [path.name for path in self.store.glob("*/.corrupt-*")]
