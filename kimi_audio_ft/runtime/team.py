"""Processes that share a piece of work: rank 0 hands it out and collects the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.runtime.devices import started_by_launcher

# One process may plan, or encode its share, for days while the others wait.
_QUEUE_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Team:
    """This process among ``size``; alone when that is 1. Every method is called by all of them alike."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def scatter(self, parts: Sequence[Any] | None) -> Any:
        """This process's part; the first gives all ``parts``, the others None."""
        part = list(parts or [None])[:1]
        if self.size > 1:
            dist.scatter_object_list(part, None if parts is None else list(parts), 0, self.group)
        return part[0]

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """Every process's numbers, by rank, once all have come here."""
        everyone = [list(numbers)] * self.size
        if self.size > 1:
            dist.all_gather_object(everyone, everyone[self.rank], self.group)
        return everyone


@contextmanager
def joined_team() -> Iterator[Team]:
    """This process's team, left at the end.

    When another process has ended, this one ends too, with one line: the other's error says why.
    """
    if not started_by_launcher():
        yield Team()
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        rule = "RANK and WORLD_SIZE are set, but not how the processes find each other"
        raise UserError(f"{' and '.join(missing)}: {rule}. Start them with torchrun, or set it for all of them")
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    try:
        yield Team(rank, dist.get_world_size(), dist.new_group(backend="gloo", timeout=_QUEUE_PATIENCE))
    except RuntimeError as error:
        gloo_lost_it = "gloo" in str(error) and ("closed by peer" in str(error) or "reset by peer" in str(error))
        if not isinstance(error, dist.DistBackendError) and not gloo_lost_it:
            raise
        print(f"process {rank} ends because another one of this run has ended", file=sys.stderr, flush=True)
        os._exit(1)  # the process group's threads still wait for the one that is gone
    finally:
        dist.destroy_process_group()
