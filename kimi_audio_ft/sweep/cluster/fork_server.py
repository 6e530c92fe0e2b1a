"""The process that a sweep's tasks on this machine are forked from: it has imported what they need."""

from __future__ import annotations

import signal
import sys
from multiprocessing import forkserver
from pathlib import Path

from kimi_audio_ft.runtime import workers

# Devices of NVIDIA's drivers, as cards, as modules of a board, and under Windows.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/dxg")


def start_if_no_gpu() -> bool:
    """Start it, before PyTorch says whether there is a GPU, where no driver of one is seen; returns whether it runs.

    A GPU that is found later leaves it unused.
    """
    if not may_fork() or any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    start()
    return True


def may_fork() -> bool:
    """Whether tasks without a GPU are forked on this system."""
    return workers.START_METHOD == "spawn" and sys.platform == "linux"


def start() -> None:
    """Start it, unless it runs; importing takes several seconds, and begins now."""
    forkserver.set_forkserver_preload(["kimi_audio_ft.sweep.cluster.preloaded"])
    # Until it ignores Ctrl-C, which reaches all of a terminal's processes, it could answer only by a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
