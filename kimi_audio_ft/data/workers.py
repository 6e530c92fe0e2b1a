"""Worker processes that lay out conversations for a GPU: as many as cores and shared memory have room for."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from rich.filesize import decimal

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.text import first_line

log = logging.getLogger(__name__)

SIDE_BY_SIDE = "KIMI_AUDIO_FT_SIDE_BY_SIDE"
"""Environment variable of a process that trains beside others on this machine: how many they are at most."""
SHARE_MEMORY = "KIMI_AUDIO_FT_SHARE_MEMORY"
"""Environment variable of a process that has cores of its own: how many share this machine's memory at most."""

# Most workers, cores for each of them, and steps that each prepares ahead.
_MOST, _CORES, AHEAD = 4, 4, 4
# Bytes of a position: Whisper's features of an audio code in float32, nearly all of a batch.
_POSITION_BYTES = 4 * 5120
# Where workers put batches for the process that trains; a container has 64 MB of it unless told otherwise.
_SHARED = Path("/dev/shm")
# In errors of PyTorch's about a worker that died, or could not put a batch there.
_ENDED = ("exited unexpectedly", "killed by signal", "shared memory", "No space left on device")


def workers_here(positions: int, ranks: int) -> tuple[int, int]:
    """``workers_for`` one of so many ranks here, beside other packs (``SIDE_BY_SIDE``, ``SHARE_MEMORY``)."""
    ranks *= int(os.environ.get(SIDE_BY_SIDE) or 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else None
    share = None if free is None else free // int(os.environ.get(SHARE_MEMORY) or 1)
    workers, ahead = workers_for(positions, ranks, cores, share)
    if free is not None and workers < workers_for(positions, ranks, cores, None)[0]:
        log.info("%d worker processes, as %s has room for no more: %s are free", workers, _SHARED, decimal(free))
    return workers, ahead


def workers_for(positions: int, ranks: int, cores: int, shared: int | None) -> tuple[int, int]:
    """How many workers a rank has, and how many steps each of them prepares ahead.

    Args:
        positions: of the largest step. cores, shared: of all ranks; bytes of shared memory, None: as of all memory.
    """
    workers = min(_MOST, cores // _CORES // ranks)
    # Half of it: the step that is being computed and those that are being pinned lie there too.
    steps = _MOST * AHEAD if shared is None else shared // ranks // (2 * _POSITION_BYTES * max(1, positions))
    workers = min(workers, steps)
    return workers, min(AHEAD, steps // workers) if workers else 0


def ended_worker(error: RuntimeError) -> UserError | None:
    """What to tell people where a worker has died; None: it is another error."""
    if not any(sign in str(error) for sign in _ENDED):
        return None
    return UserError(
        f"{first_line(str(error))}: mostly for want of memory, or of shared memory ({_SHARED}). Set "
        "data.num_workers=0, or give the container more of it (docker run --shm-size=8g)"
    )
