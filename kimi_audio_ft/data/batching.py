"""Which conversations make up each optimizer step, which rank computes them, and how much each counts.

The plan of an epoch does not know the ranks: it is a row of optimizer steps, each of ``step_batches`` micro-batches.
Ranks share the micro-batches of every step, so one rank with 8 of them and 8 ranks with one each take the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
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
    step_batches: micro-batches of an optimizer step, over all ranks.
    average: "sample" or "token", what the loss of a step is the mean of.
    """

    lengths: np.ndarray
    supervised: np.ndarray
    batch_size: int
    max_tokens: int
    step_batches: int
    bucket: bool
    average: str
    seed: int

    def epoch(self, epoch: int) -> EpochPlan:
        """All micro-batches of an epoch; every conversation stands in exactly one."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        if self.bucket:
            # Without the blur a corpus of one pool would have the same companions in every epoch.
            blurred = self.lengths[order] * rng.uniform(1 - _BLUR, 1 + _BLUR, len(order))
            pools = np.arange(len(order)) // (self.batch_size * _POOL)
            order = order[np.lexsort((blurred, pools))]
        bounds = cut(self.lengths[order], self.batch_size, self.max_tokens)
        return EpochPlan(self, epoch, order, bounds, rng.permutation(len(bounds) - 1))

    def num_steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""
        return len(self.epoch(epoch))


@dataclass(frozen=True)
class EpochPlan:
    """One epoch of a plan: micro-batch ``b`` holds the conversations ``order[bounds[b]:bounds[b + 1]]``.

    sequence: the micro-batches in the order of training.
    """

    plan: BatchPlan
    number: int
    order: np.ndarray
    bounds: np.ndarray
    sequence: np.ndarray

    def __len__(self) -> int:
        return -(-len(self.sequence) // self.plan.step_batches)

    @cached_property
    def _costs(self) -> np.ndarray:
        """Padded positions of every micro-batch."""
        longest = np.maximum.reduceat(self.plan.lengths[self.order], self.bounds[:-1])
        return longest * np.diff(self.bounds)

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> list[Draw]:
        """What a rank computes in an optimizer step: the draws of its micro-batches, one after another.

        A draw's weight is one over the conversations (or answer tokens) of the *whole* step, so that the step's loss
        does not depend on how it was cut. Ranks get equally many micro-batches: where the last step of an epoch does
        not go round, the step's cheapest one is computed again with weight 0.
        """
        first = step * self.plan.step_batches
        batches = self.sequence[first : first + self.plan.step_batches]
        # What ranks compute at the same time has about the same size, so that none waits long for another.
        batches = batches[np.argsort(self._costs[batches], kind="stable")]
        weight = self._weight(batches)
        draws = []
        for turn in range(-(-len(batches) // ranks)):
            place = turn * ranks + rank
            filler = place >= len(batches)
            for index in self._members(batches[0 if filler else place]):
                draws.append(Draw(int(index), self.number, 0.0 if filler else weight, first + place))
        return draws

    def _members(self, batch: int) -> np.ndarray:
        return self.order[self.bounds[batch] : self.bounds[batch + 1]]

    def _weight(self, batches: np.ndarray) -> float:
        if self.plan.average == "sample":
            return 1.0 / int((self.bounds[batches + 1] - self.bounds[batches]).sum())
        return 1.0 / int(sum(self.plan.supervised[self._members(batch)].sum() for batch in batches))


def cut(lengths: np.ndarray, batch_size: int, max_tokens: int) -> np.ndarray:
    """Bounds of batches under both limits, in this order; one longer than the token budget is a batch of its own.

    Returns:
        ``[batches + 1]`` with 0 first: batch b holds what stands at ``bounds[b]`` up to ``bounds[b + 1]``.
    """
    bounds, start, longest = [0], 0, 0
    for place, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        count = place - start
        if count and (count == batch_size or longest * (count + 1) > max_tokens):
            bounds.append(place)
            start, longest = place, length
    return np.array([*bounds, len(lengths)] if len(lengths) else [0])


def validation_share(
    lengths: np.ndarray, batch_size: int, max_tokens: int, rank: int = 0, ranks: int = 1
) -> list[list[Draw]]:
    """Batches of similar length that one rank computes of an evaluation set; equally many for each rank.

    Every conversation has weight 1 in exactly one rank's share; a batch that only keeps the ranks in step has 0.
    """
    order = np.argsort(lengths, kind="stable")
    bounds = cut(lengths[order], batch_size, max_tokens)
    batches = [order[start:end] for start, end in pairwise(bounds)]
    share = []
    for place in range(rank, -(-len(batches) // ranks) * ranks, ranks):
        filler = place >= len(batches)
        share.append([Draw(int(i), 0, 0.0 if filler else 1.0, place) for i in batches[0 if filler else place]])
    return share


class EpochSteps(Sampler[list[Draw]]):
    """One rank's part of every optimizer step of an epoch; ``skip`` of them were done by an earlier process."""

    def __init__(self, plan: BatchPlan, epoch: int, rank: int = 0, ranks: int = 1) -> None:
        self.plan, self.rank, self.ranks = plan.epoch(epoch), rank, ranks
        self.skip = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.skip, len(self.plan)):
            yield self.plan.step(step, self.rank, self.ranks)
