"""Processes that begin with the libraries imported, forked from one that has them: importing takes most of their time.

They are processes like others: killed, they clean nothing up, and what their parents imported or patched is not theirs.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from multiprocessing import forkserver, get_context, util
from multiprocessing.process import BaseProcess
from pathlib import Path

from kimi_audio_ft.runtime import workers
from kimi_audio_ft.runtime.libraries import bring_back_bitsandbytes

REPOSITORY = Path(__file__).resolve().parent.parent


def fork_workers() -> None:
    """From now on this process's workers are forked from one that has imported the libraries."""

    def start(path: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        with chdir(REPOSITORY):  # elsewhere it would not find what it is to import, and say nothing of it
            return spawn(path, arguments, descriptors)

    spawn, util.spawnv_passfds = util.spawnv_passfds, start  # type: ignore[attr-defined]
    forkserver.set_forkserver_preload(["tests.preloaded"])
    workers.START_METHOD = "forkserver"


def fork_command(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    out: Path,
    err: Path | None = None,
) -> BaseProcess:
    """Start ``python -m module arguments`` in a folder, with all of its processes in a session of their own.

    Args:
        out, err: files for what it prints; both go to ``out`` where there is no ``err``.
    """
    process = get_context("forkserver").Process(
        target=_command, args=(module, list(arguments), folder, dict(environment), out, err or out)
    )
    process.start()
    return process


def _command(
    module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], out: Path, err: Path
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in ((1, out), (2, err)):
        target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, number)
        os.close(target)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    from tests.pretend_gpu import pretend_from_environment

    bring_back_bitsandbytes()  # a command leaves it out by itself
    pretend_from_environment()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def fork_own_workers() -> None:
    """From now on this process, and those that it forks, fork their workers from a copy of what they are then.

    The copy ends with the process that it was made of.
    """

    def start(path: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        if "forkserver" not in arguments[-1]:
            return spawn(path, arguments, descriptors)
        number = os.fork()
        if number == 0:
            _close_all_but(descriptors)  # it ends when nobody else has the other end of a pipe that it reads
            forkserver._forkserver._lock.release()  # type: ignore[attr-defined]  # its parent holds it: it is starting
            try:
                forkserver.main(*descriptors, None)
            finally:
                os._exit(0)
        return number

    spawn, util.spawnv_passfds = util.spawnv_passfds, start  # type: ignore[attr-defined]
    workers.START_METHOD = "forkserver"


def _close_all_but(descriptors: Sequence[int]) -> None:
    """Their numbers stay taken: objects of the parent's that are forgotten here will close them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        if number > 2 and number not in (*descriptors, nothing):
            os.dup2(nothing, number, inheritable=False)
