"""CPU threads, set on purpose: two busy processes with two threads each on two cores crawl."""

from __future__ import annotations


def limit_threads(count: int) -> None:
    """Give PyTorch ``count`` CPU threads; 0 leaves its own choice (or OMP_NUM_THREADS')."""
    if count:
        import torch

        torch.set_num_threads(count)
