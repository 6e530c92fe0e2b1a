"""Which conversations make up each optimizer step, and how much each counts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Sampler

from kimi_audio_ft.data.dataset import Draw

# Conversations are sorted by length within pools of this many micro-batches: little padding, much randomness.
_POOL = 32
# Part of its length by which a conversation may be sorted out of place.
_BLUR = 0.1


@dataclass(frozen=True)
class BatchPlan:
    """Rules of the batches.

    lengths: positions of every conversation. supervised: answer tokens of every conversation.
    average: "sample" or "token", what the loss of a step is the mean of.
    """

    lengths: Sequence[int]
    supervised: Sequence[int]
    batch_size: int
    max_tokens: int
    accumulate: int
    bucket: bool
    average: str
    seed: int

    def epoch(self, epoch: int) -> list[list[Draw]]:
        """All micro-batches of an epoch; every conversation stands in exactly one.

        Consecutive groups of ``accumulate`` micro-batches are an optimizer step. A draw's weight is one over the
        step's conversations (or answer tokens), so that the step's loss does not depend on how it was cut.
        """
        rng = random.Random(f"{self.seed} epoch {epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        if self.bucket:
            # Without the blur a corpus of one pool would have the same companions in every epoch.
            blur = [rng.uniform(1 - _BLUR, 1 + _BLUR) for _ in order]
            size = self.batch_size * _POOL
            pools = [order[start : start + size] for start in range(0, len(order), size)]
            order = [index for pool in pools for index in sorted(pool, key=lambda i: self.lengths[i] * blur[i])]
        batches = cut(order, self.lengths, self.batch_size, self.max_tokens)
        rng.shuffle(batches)
        steps = [batches[start : start + self.accumulate] for start in range(0, len(batches), self.accumulate)]
        return [[Draw(i, epoch, self._weight(step)) for i in batch] for step in steps for batch in step]

    def num_steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.epoch(epoch)) // self.accumulate)

    def _weight(self, step: Sequence[Sequence[int]]) -> float:
        if self.average == "sample":
            return 1.0 / sum(len(batch) for batch in step)
        return 1.0 / sum(self.supervised[index] for batch in step for index in batch)


def cut(order: Sequence[int], lengths: Sequence[int], batch_size: int, max_tokens: int) -> list[list[int]]:
    """Batches under both limits, in this order; a conversation longer than the token budget is one of its own."""
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        full = not batches or len(batches[-1]) == batch_size
        if full or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


class EpochBatches(Sampler[list[Draw]]):
    """The micro-batches of one epoch, resumable: ``skip`` of them were done by an earlier process."""

    def __init__(self, plan: BatchPlan, epoch: int) -> None:
        self.batches = plan.epoch(epoch)
        self.skip = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        yield from self.batches[self.skip :]
