"""The commands as a person runs them: in a folder of their own, on a small corpus."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from multirun_analysis.report.page import chart_libraries
from tests.forkserver import fork_command

REPOSITORY = Path(__file__).resolve().parents[2]
MadeOnce = Callable[[str, Callable[[Path], None]], Path]
NewPlace = Callable[[], "Workplace"]


# A short training and short answers on the small corpus.
SHORT = (
    "data.train_manifest=data/train.tokens.jsonl",
    "data.eval_manifest=data/eval.tokens.jsonl",
    "trainer.max_steps=4",
    "decoding.max_new_tokens=8",
    "trainer.progress=false",
    "trainer.threads=0",  # one process for a sweep: two would start on cores that other tests use
    "logger=none",
)
# Two ranks at two temperatures: trials 0 and 1 share an adapter, 2 and 3 another.
POINTS = ("lora.r=2,4", "decoding.text_temperature=0.0,0.7")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Forked:
    """A command that runs. out, err: files with what it has printed."""

    process: BaseProcess
    out: Path
    err: Path

    def wait(self) -> Outcome:
        """To its end."""
        self.process.join(900)
        self.process.kill()
        self.process.join()
        assert self.process.exitcode is not None
        return Outcome(self.process.exitcode, *(file.read_text(encoding="utf-8") for file in (self.out, self.err)))


@dataclass(frozen=True)
class Workplace:
    """A folder in which commands run, with the store inside it."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def run(self, module: str, *arguments: str) -> Outcome:
        """Run ``python -m module arguments`` within this process: importing torch takes seconds."""
        out, err = io.StringIO(), io.StringIO()
        with (
            _as_command(self, [module, *arguments]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Outcome(code, out.getvalue(), err.getvalue())

    def start(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start ``python -m module arguments`` as a process of its own."""
        command = [sys.executable, "-m", module, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self._environment() | environment, stdout=pipe, stderr=pipe, text=True
        )

    def fork(self, module: str, *arguments: str, prints: str = "forked", **environment: str) -> Forked:
        """Start ``python -m module arguments`` as a process of its own, which has imported the libraries before."""
        out, err = (self.folder / f"{prints}.{name}" for name in ("out", "err"))
        for file in (out, err):
            file.touch()
        given = self._environment() | environment
        return Forked(fork_command(module, arguments, self.folder, given, out, err), out, err)

    def run_apart(self, module: str, *arguments: str, **environment: str) -> Outcome:
        """Run ``python -m module arguments`` as a process of its own, to its end."""
        process = self.start(module, *arguments, **environment)
        out, err = process.communicate(timeout=900)
        return Outcome(process.returncode, out, err)

    def succeed(self, module: str, *arguments: str) -> str:
        """Run ``python -m module arguments`` within this process to its good end; returns what it printed."""
        done = self.run(module, *arguments)
        assert done.code == 0, (arguments, done.err)
        return done.out

    def sweep(self, folder: str, *overrides: str) -> Path:
        """Run a sweep of ``train`` with SHORT options to its good end; returns its folder."""
        self.succeed("kimi_audio_ft.train", "-m", *SHORT, f"hydra.sweep.dir={folder}", *overrides)
        return self.folder / folder

    def products(self, kind: str) -> dict[str, int]:
        """Products of the store with the time each was made."""
        found = (self.store / kind).glob("[!.]*/product.json")
        return {path.parent.name: path.stat().st_mtime_ns for path in found}

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": path, "KIMI_AUDIO_FT_STORE": str(self.store)}


@contextlib.contextmanager
def _as_command(place: Workplace, argv: list[str]) -> Iterator[None]:
    """This process as if it had just been started for a command; Hydra's traces are wiped off afterwards."""
    root = logging.getLogger()
    handlers, level, environment, arguments = root.handlers[:], root.level, dict(os.environ), sys.argv
    GlobalHydra.instance().clear()
    os.environ["KIMI_AUDIO_FT_STORE"] = str(place.store)
    sys.argv = argv
    try:
        with contextlib.chdir(place.folder), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
            yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:], sys.argv = handlers, arguments
        root.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)
        GlobalHydra.instance().clear()


@pytest.fixture(scope="session")
def corpus(made_once: MadeOnce) -> Path:
    """A small demo corpus: ``corpus.csv`` and ``audio/``."""

    def synthesize(folder: Path) -> None:
        from kimi_audio_ft.demo.corpus import CorpusParameters, synthesize_corpus

        synthesize_corpus(folder / "corpus", CorpusParameters(recordings=5, segments=3))

    return made_once("synthesized", synthesize) / "corpus"


@pytest.fixture(scope="session")
def prepared(corpus: Path, made_once: MadeOnce) -> Workplace:
    """Where ``data/{train,eval}.jsonl`` and their pretokenized copies lie.

    The store has their features, and the report's script, which takes seconds to bundle.
    """

    def prepare(folder: Path) -> None:
        place = Workplace(folder)
        csv = ("kimi_audio_ft.prepare", f"csv={corpus / 'corpus.csv'}", "out=data", "group_column=recording")
        place.succeed(*csv, "eval_ratio=0.4", "test_ratio=0", "max_refused=0.25")  # the corpus has 5 bad rows of 20
        place.succeed("kimi_audio_ft.tokenize", "manifests=[data/train.jsonl,data/eval.jsonl]", "progress=false")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KIMI_AUDIO_FT_STORE", str(place.store))
            chart_libraries.cache_clear()
            chart_libraries()  # kept in the store

    return Workplace(made_once("prepared", prepare))


@pytest.fixture(scope="session")
def new_workplace(prepared: Workplace, tmp_path_factory: pytest.TempPathFactory) -> NewPlace:
    """Makes folders that hold ``data/`` and a store with its features and nothing else."""

    def make() -> Workplace:
        place = Workplace(tmp_path_factory.mktemp("place"))
        lay_out(prepared, place)
        return place

    return make


def lay_out(prepared: Workplace, place: Workplace) -> None:
    """Give a new workplace its ``data/``, the features of its recordings and the report's script."""
    shutil.copytree(prepared.folder / "data", place.folder / "data")
    for kind in ("features", "report"):
        if (prepared.store / kind).is_dir():  # an unknown version's script is bundled anew each time
            shutil.copytree(prepared.store / kind, place.store / kind)


@pytest.fixture
def workplace(new_workplace: NewPlace) -> Workplace:
    """A folder of the test's own with ``data/`` and its features."""
    return new_workplace()


@pytest.fixture(scope="module")
def place(new_workplace: NewPlace) -> Workplace:
    """A workplace that a file's tests share."""
    return new_workplace()


@pytest.fixture(scope="session")
def swept(prepared: Workplace, made_once: MadeOnce) -> Workplace:
    """Where the sweep ``first`` over POINTS has run, the first thing that its store has seen."""

    def run(folder: Path) -> None:
        place = Workplace(folder)
        lay_out(prepared, place)
        place.sweep("first", *POINTS)

    return Workplace(made_once("swept", run))


@pytest.fixture(scope="module")
def first(place: Workplace, swept: Workplace) -> Path:
    """A finished sweep over POINTS, in ``place`` with all that its store got from it."""
    shutil.copytree(swept.store, place.store, dirs_exist_ok=True)
    return shutil.copytree(swept.folder / "first", place.folder / "first")
