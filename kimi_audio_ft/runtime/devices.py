"""Devices, processes and CPU threads of a computation."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kimi_audio_ft.config.train import SHARDED, TrainerConfig
from kimi_audio_ft.errors import ConfigError, UserError

if TYPE_CHECKING:
    import torch


def device(accelerator: str = "auto") -> torch.device:
    """The GPU of this process (its LOCAL_RANK's) or the CPU; UserError if one is asked for that is not there."""
    import torch

    gpus = torch.cuda.device_count()
    if accelerator == "gpu" and not gpus:
        rule = "needs a GPU, and PyTorch sees none"
        raise ConfigError("trainer.accelerator", "gpu", rule, "Set trainer.accelerator=auto")
    if accelerator == "cpu" or not gpus:
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK") or 0)
    if number >= gpus:
        raise UserError(
            f"LOCAL_RANK={number}: this process is to use GPU {number} of its machine, and PyTorch sees {gpus}. "
            "Start no more processes than there are GPUs, or unset LOCAL_RANK if an earlier command has left it"
        )
    return torch.device("cuda", number)


def avoid_wrong_kernels() -> None:
    """Do without cuDNN's attention, the default on Hopper with PyTorch 2.11 and later.

    Its backward pass gives NaN for an explicit mask at some lengths (PyTorch's issue 196678, TRL's 7181). To be removed
    when a release is known to be right; PyTorch's own flash kernels stay.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def num_ranks(settings: TrainerConfig) -> int:
    """Processes of a training (``trainer.devices``; auto: one per GPU); ConfigError if there are fewer GPUs."""
    if settings.strategy == "single":
        return 1
    import torch

    if settings.devices == "auto":
        return 1 if settings.accelerator == "cpu" else max(1, torch.cuda.device_count())
    count = int(settings.devices)
    if settings.accelerator != "cpu":
        require_gpus("trainer.devices", count, "Set trainer.devices=auto, or trainer.accelerator=cpu")
    return count


def require_gpus(option: str, count: int, remedy: str) -> None:
    """Raise a ConfigError if there are GPUs, but fewer than an option asks for."""
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < count:
        raise ConfigError(option, count, f"asks for more GPUs than PyTorch sees ({gpus})", remedy)


def num_processes(devices: Any) -> int:
    """Processes of the option ``devices``: auto is one per GPU, and one without any; ConfigError: fewer GPUs."""
    import torch

    if devices == "auto":
        return max(1, torch.cuda.device_count())
    require_gpus("devices", int(devices), "Set devices=auto")
    return int(devices)


def started_by_launcher() -> bool:
    """Whether torchrun (or the like) has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def refuse_launchers() -> None:
    """Raise a UserError in a process of torchrun: commands that train and decode start their own processes."""
    if started_by_launcher():
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: this command starts its own processes, one for each GPU. "
            "Run it once, without torchrun, and choose with trainer=ddp and trainer.devices"
        )


def in_workers(settings: TrainerConfig) -> bool:
    """Whether a training runs in processes of its own; one process with one whole model needs none."""
    return num_ranks(settings) > 1 or settings.strategy in SHARDED


# Threads that this process was limited to (0: it was not), and whether what it computes may have more.
_limit, _may_grow = 0, False


def limit_threads(count: int) -> None:
    """Give PyTorch ``count`` CPU threads; 0 leaves its own choice (or OMP_NUM_THREADS').

    Processes with more threads than their share of the cores slow each other down many times over.
    """
    global _limit, _may_grow
    _limit, _may_grow = count, False
    if count:
        import torch

        torch.set_num_threads(count)


def allow_more_threads(allowed: bool) -> None:
    """Say whether what is computed next may have more threads in its course: whether that changes no result."""
    global _may_grow
    _may_grow = allowed


def use_idle_cores(times: int) -> None:
    """Where allowed, use ``times`` the CPU threads that this process was limited to: those beside it have ended."""
    import torch

    if _limit and _may_grow and torch.get_num_threads() != times * _limit:
        torch.set_num_threads(times * _limit)


def share_threads(count: int, processes: int) -> None:
    """``limit_threads`` in one of several processes on this machine; 0 gives each its share of the cores."""
    limit_threads(count or max(1, (os.cpu_count() or 1) // processes))


# In RuntimeErrors of the CPU's allocator, the CUDA runtime, and CUDA's libraries (CUBLAS_STATUS_ALLOC_FAILED).
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _OUT_OF_MEMORY)


def main_memory() -> float:
    """Bytes of this machine's memory."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def memory_at_hand(place: torch.device) -> float:
    """Bytes that this process may use: a GPU's free ones with those that it holds, or the machine's."""
    import torch

    if place.type != "cuda":
        return main_memory()
    return float(torch.cuda.mem_get_info(place)[0] + torch.cuda.memory_reserved(place))


def free_memory() -> None:
    """Free what failed computations have left; call it when their error is no longer being handled."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def gpu_freed() -> Iterator[None]:
    """As a decorator: free at its end what a function leaves on a GPU, where cycles keep a trainer's tensors alive."""
    import torch

    try:
        yield
    finally:
        if torch.cuda.is_available():
            free_memory()
