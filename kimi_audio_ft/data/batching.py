"""Batch plan: the conversations of each optimizer step, their split over ranks, and their loss weights.

The plan of an epoch is independent of the ranks: a sequence of optimizer steps of ``step_batches`` micro-batches, which
the ranks share. One rank with 8 micro-batches per step and 8 ranks with one each take the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

from kimi_audio_ft.data.dataset import Draw

# Micro-batches per pool; conversations are sorted by length within a pool: little padding, much randomness.
_POOL = 32
# Relative noise on the length when sorting.
_BLUR = 0.1
# Seconds of passes by their padded positions (``cost.speed.PassTime``).
Seconds = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class BatchPlan:
    """Batching rules.

    lengths: positions per conversation. supervised: answer tokens per conversation.
    step_batches: micro-batches of an optimizer step, over all ranks.
    average: "sample" or "token", the unit over which a step's loss is averaged.
    mix: of every manifest its conversations, and how many of them an epoch takes; None: an epoch takes all, once.
    """

    lengths: np.ndarray
    supervised: np.ndarray
    batch_size: int
    max_tokens: int
    step_batches: int
    bucket: bool
    average: str
    seed: int
    mix: tuple[tuple[int, int], ...] | None = None

    def epoch(self, epoch: int) -> EpochPlan:
        """Micro-batches of an epoch; every conversation that it takes is in exactly one, as often as it is taken."""
        rng = np.random.default_rng([self.seed, epoch])
        taken, copies = self._taken(epoch)
        shuffled = rng.permutation(len(taken))
        order, copies = taken[shuffled], copies[shuffled]
        if self.bucket:
            # Without the noise a corpus of one pool would have the same batches in every epoch.
            blurred = self.lengths[order] * rng.uniform(1 - _BLUR, 1 + _BLUR, len(order))
            pools = np.arange(len(order)) // (self.batch_size * _POOL)
            sorted_ = np.lexsort((blurred, pools))
            order, copies = order[sorted_], copies[sorted_]
        bounds = cut(self.lengths[order], self.batch_size, self.max_tokens)
        return EpochPlan(self, epoch, order, copies, bounds, rng.permutation(len(bounds) - 1))

    def _taken(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Conversations of an epoch, and of each how often the epoch has taken it before.

        An epoch goes on in a manifest's random order where the one before it ended: all are taken equally often.
        """
        if self.mix is None:
            return np.arange(len(self.lengths)), np.zeros(len(self.lengths), np.int64)
        indices, copies, first = [], [], 0
        for number, (size, count) in enumerate(self.mix):
            # Not the generator of an epoch: [seed, number] and [seed, number, 0] are one to NumPy.
            order = np.random.default_rng([self.seed, number, 1]).permutation(size)
            steps = np.arange(count)
            indices.append(first + order[(epoch * count + steps) % size])
            copies.append(steps // size)
            first += size
        return np.concatenate(indices), np.concatenate(copies)


@dataclass(frozen=True)
class EpochPlan:
    """Plan of one epoch: micro-batch ``b`` holds the conversations ``order[bounds[b]:bounds[b + 1]]``.

    copies: of each, how often this epoch has taken it before. sequence: the micro-batches in training order.
    """

    plan: BatchPlan
    number: int
    order: np.ndarray
    copies: np.ndarray
    bounds: np.ndarray
    sequence: np.ndarray

    def __len__(self) -> int:
        return -(-len(self.sequence) // self.plan.step_batches)

    @cached_property
    def _longest(self) -> np.ndarray:
        """Positions of every micro-batch's longest conversation."""
        return np.maximum.reduceat(self.plan.lengths[self.order], self.bounds[:-1])

    @cached_property
    def _costs(self) -> np.ndarray:
        """Padded positions of every micro-batch."""
        return self._longest * np.diff(self.bounds)

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> list[Draw]:
        """Draws of one rank's micro-batches in an optimizer step, concatenated.

        A draw's weight is one over the conversations (or answer tokens) of the *whole* step, so that the step's loss is
        independent of micro-batches and ranks. All ranks get equally many micro-batches: if the last step of an epoch
        does not divide evenly, its cheapest one is repeated with weight 0.
        """
        first = step * self.plan.step_batches
        batches = self.sequence[first : first + self.plan.step_batches]
        # Ranks compute micro-batches of similar cost at the same time, to minimize waiting.
        batches = batches[np.argsort(self._costs[batches], kind="stable")]
        weight = self._weight(batches)
        draws = []
        for turn in range(-(-len(batches) // ranks)):
            position = turn * ranks + rank
            filler = position >= len(batches)
            for place in self._places(batches[0 if filler else position]):
                index, copy = int(self.order[place]), int(self.copies[place])
                draws.append(Draw(index, self.number, 0.0 if filler else weight, first + position, copy))
        return draws

    def sizes(self, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """Positions of one rank's part of every ``step``, padded to one pass."""
        steps = np.arange(len(self.sequence)) // self.plan.step_batches
        batches = self.sequence[np.lexsort((self._costs[self.sequence], steps))]
        own = (np.arange(len(batches)) - steps * self.plan.step_batches) % ranks == rank
        last = (len(self) - 1) * self.plan.step_batches
        own[last] |= not own[last:].any()  # it only keeps step with the other ranks
        count, longest = np.zeros((2, len(self)), np.int64)
        np.add.at(count, steps[own], np.diff(self.bounds)[batches[own]])
        np.maximum.at(longest, steps[own], self._longest[batches[own]])
        return count * longest

    def passes(self, step: int, ranks: int, most: int) -> int:
        """Passes of at most so many padded positions that every rank takes for a step: as many as one of them needs."""
        return max(self._passes(self.step(step, rank, ranks), most) for rank in range(ranks))

    def _passes(self, draws: list[Draw], most: int) -> int:
        counted = [draw for draw in draws if draw.weight] or draws
        return len(cut(np.sort([self.plan.lengths[draw.index] for draw in counted]), len(counted), most)) - 1

    def _places(self, batch: int) -> range:
        return range(self.bounds[batch], self.bounds[batch + 1])

    def _weight(self, batches: np.ndarray) -> float:
        if self.plan.average == "sample":
            return 1.0 / int((self.bounds[batches + 1] - self.bounds[batches]).sum())
        return 1.0 / int(sum(self.plan.supervised[self.order[self._places(batch)]].sum() for batch in batches))


def cut(lengths: np.ndarray, batch_size: int, max_tokens: int) -> np.ndarray:
    """Bounds ``[batches + 1]`` of consecutive batches under both limits; an item over the token budget stays alone."""
    bounds, start, longest = [0], 0, 0
    for index, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        count = index - start
        if count and (count == batch_size or longest * (count + 1) > max_tokens):
            bounds.append(index)
            start, longest = index, length
    return np.array([*bounds, len(lengths)] if len(lengths) else [0])


def cheapest_cut(lengths: np.ndarray, most: int, seconds: Seconds) -> np.ndarray:
    """Bounds ``[passes + 1]`` of consecutive passes of at most so many padded positions that together take least time.

    Args:
        lengths: in ascending order. most: an item over it stays alone. seconds: of passes by their padded positions.
    """
    least, firsts = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, np.int64)
    for end, longest in enumerate(lengths, start=1):
        items = np.arange(min(end, max(1, most // int(longest))), 0, -1)  # of the passes that may end here
        together = least[end - items] + seconds(items * longest)
        firsts[end] = end - items[together.argmin()]
        least[end] = together.min()
    bounds = [len(lengths)]
    while bounds[-1] > 0:
        bounds.append(int(firsts[bounds[-1]]))
    return np.array(bounds[::-1])


def validation_share(
    lengths: np.ndarray,
    batch_size: int,
    max_tokens: int,
    rank: int = 0,
    ranks: int = 1,
    seconds: Seconds | None = None,
) -> list[list[Draw]]:
    """One rank's batches of an evaluation set, bucketed by length; equally many for each rank.

    With ``seconds`` of a batch by its padded positions, those that take least time, of any number of conversations.
    Every conversation has weight 1 in exactly one rank's share; batches that only pad the number have weight 0.
    """
    order = np.argsort(lengths, kind="stable")
    if seconds is None:
        bounds = cut(lengths[order], batch_size, max_tokens)
    else:
        bounds = cheapest_cut(lengths[order], max_tokens, seconds)
    batches = [order[start:end] for start, end in pairwise(bounds)]
    share = []
    for position in range(rank, -(-len(batches) // ranks) * ranks, ranks):
        filler = position >= len(batches)
        share.append([Draw(int(i), 0, 0.0 if filler else 1.0, position) for i in batches[0 if filler else position]])
    return share


class EpochSteps(Sampler[list[Draw]]):
    """One rank's part of every optimizer step of an epoch, without the first ``skip``, done before a resume.

    together: all ranks take equally many passes of a step, of at most so many padded positions; None: each as it likes.
    """

    def __init__(self, plan: BatchPlan, epoch: int, rank: int = 0, ranks: int = 1, together: int | None = None) -> None:
        self.plan, self.rank, self.ranks, self.together = plan.epoch(epoch), rank, ranks, together
        self.skip = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.skip, len(self.plan)):
            draws = self.plan.step(step, self.rank, self.ranks)
            if self.together is not None:
                passes = self.plan.passes(step, self.ranks, self.together)
                draws = [replace(draw, passes=passes) for draw in draws]
            yield draws


class StepsTogether(Sampler[dict[str, list[Draw]]]):
    """Draws of equally many optimizer steps of every member, by its name; resumed as those of one (``EpochSteps``)."""

    def __init__(self, members: Mapping[str, EpochSteps]) -> None:
        self.members, self.skip = members, 0

    def __len__(self) -> int:
        return len(next(iter(self.members.values())))

    def __iter__(self) -> Iterator[dict[str, list[Draw]]]:
        for steps in self.members.values():
            steps.skip = self.skip
        for draws in zip(*self.members.values(), strict=True):
            yield dict(zip(self.members, draws, strict=True))
