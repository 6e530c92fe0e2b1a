"""A task run by several processes at once, as one call: training over several ranks, tokenizing in shares.

The processes are spawned, never forked (CUDA and OpenMP do not survive a fork), on this machine. They find each other
as torch.distributed and Lightning expect it: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.runtime.devices import out_of_memory
from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes
from kimi_audio_ft.text import first_line

Send = Callable[[Any], None]
# How Python starts a worker. Tests set "forkserver" where they start dozens: libraries are then imported once for all.
# It is not the product's choice: a library that asks for the GPUs while it is imported would spoil them for workers.
START_METHOD = "spawn"
# Seconds between two looks at the messages of workers.
_PATIENCE = 0.2
# Seconds that a worker has to end by itself once another one has failed.
_GRACE = 10.0


class WorkerDied(RuntimeError):
    """A worker ended without an error: by a signal (9 is often the kernel's, out of memory), or an exit in its code."""


def run_workers(
    task: Callable[..., None],
    arguments: tuple[Any, ...],
    count: int,
    on_message: Callable[[int, Any], None] | None = None,
    *,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Run ``task(rank, send, *arguments)`` in ``count`` processes and wait for all of them.

    Args:
        task: a function of a module, so that a spawned process can import it.
        on_message: is given ``(rank, value)`` here for every ``send(value)`` of a worker, in each worker's order.
        should_stop: asked again and again; once true, every worker gets one SIGTERM, and is waited for.

    When one worker fails the others are ended; when this process dies they are ended too.

    Raises:
        UserError: as a worker raised it.
        MemoryError: a worker, or its GPU, had no memory left.
        WorkerDied: a worker ended in any other way; what it printed stands above.
    """
    import torch.distributed as dist
    import torch.multiprocessing as mp

    # As torchrun does: a port that was only looked for could be another process's by the time that rank 0 takes it.
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    messages = mp.get_context(START_METHOD).Queue()
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "WORLD_SIZE": str(count)}
    group["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    # A worker that is still importing cannot answer Ctrl-C but by a traceback: it hears it in _run.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        context = mp.start_processes(  # its children end when this process does
            _run,
            (pickle.dumps((task, arguments)), {**os.environ, **group}, messages),
            nprocs=count,
            join=False,
            start_method=START_METHOD,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    failures: dict[int, UserError | MemoryError] = {}

    def deliver(wait: float) -> None:
        """Pass on what has arrived, after waiting for a first message."""
        with suppress(queue.Empty):
            while True:
                rank, kind, value = messages.get(timeout=wait)
                wait = 0.0
                if kind == "failed":
                    failures[rank] = value
                elif on_message is not None:
                    on_message(rank, value)

    told = False
    try:
        while not context.join(timeout=0):
            deliver(_PATIENCE)
            if should_stop is not None and not told and should_stop():
                told = True
                for process in context.processes:
                    process.terminate()
        deliver(_PATIENCE)  # messages of processes that have ended
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        deliver(_PATIENCE)
        if failures:
            raise failures[min(failures)] from None
        raise WorkerDied(
            f"worker {error.error_index} of {count} died: {first_line(error, type(error).__name__)}"
        ) from None
    except KeyboardInterrupt:  # a clean end is asked for through should_stop
        for process in context.processes:
            process.kill()
        raise
    finally:
        _end(context.processes)


def _end(processes: Sequence[Any]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE)
        process.kill()  # one that waits inside a collective call does not hear the first signal
        process.join()


def _run(rank: int, pickled: bytes, environment: dict[str, str], messages: Any) -> None:
    """pickled: the task and its arguments, whose modules are imported only when all else is as they expect it."""
    _die_with_parent()
    leave_out_bitsandbytes()
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        task, arguments = pickle.loads(pickled)
        task(rank, lambda value: messages.put((rank, "message", value)), *arguments)
    except UserError as error:
        messages.put((rank, "failed", error))
        _leave(messages, 2)
    except KeyboardInterrupt:
        _leave(messages, 130)
    except BaseException as error:
        traceback.print_exc()
        if out_of_memory(error):
            messages.put((rank, "failed", MemoryError(str(error))))
        _leave(messages, 1)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, which holds the locks of what is made here.

    PyTorch asks the kernel for SIGINT, which a worker may ignore.
    """
    from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]  # made in C

    _prctl_pr_set_pdeathsig(signal.SIGKILL)


def _leave(messages: Any, code: int) -> None:
    """End this worker although other threads (of a process group) may wait for ranks that are gone."""
    messages.close()
    messages.join_thread()
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)


def print_into(log_file: str | None, level: int) -> None:
    """Have this process's output, and that of its children, appended to a file (None: leave it), and log there."""
    if log_file is not None:
        target = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        sys.stdout.flush()
        sys.stderr.flush()
        for standard in (1, 2):
            os.dup2(target, standard)
        os.close(target)
    logging.basicConfig(format="[%(asctime)s] %(message)s", level=level, force=True)
