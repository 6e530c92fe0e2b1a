"""Time of trainings and decodings on a machine, from what they are counted to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kimi_audio_ft.cost.counted import Count, Counts, Growing
from kimi_audio_ft.cost.machines import Machine
from kimi_audio_ft.cost.memory import TrainingMemory


@dataclass(frozen=True)
class PassTime:
    """Seconds of a GPU's pass by its padded positions: the highest of some straight lines (``Machine.lines``).

    Below some hundred positions a pass takes what its host needs to start kernels, or what it takes to read the base;
    what lies above is the price of padding.
    """

    lines: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, counts: Counts, machine: Machine, adapters: int = 1) -> PassTime:
        """Of adapters that train together, by the positions of one; an answer costs the same in any pass."""
        whole = counts.position
        each = Count().plus(whole.each, adapters)
        return cls(machine.lines(Growing(whole.fixed.plus(counts.answer.fixed), each)))

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Of passes of so many positions each."""
        return np.max([fixed + each * positions for fixed, each in self.lines], axis=0)


@dataclass(frozen=True)
class StepTime:
    """An optimizer step of so many adapters that train together.

    passes: that its positions are cut into. seconds: of the step. tokens_per_second: positions of all adapters. peak:
    bytes. recomputed: activations are, as to keep them would take longer. mfu: part of the machine's products that is
    used.
    """

    adapters: int
    passes: int
    seconds: float
    tokens_per_second: float
    peak: int
    recomputed: bool
    mfu: float


def step_time(
    kept: Counts,
    recomputed: Counts | None,
    machine: Machine,
    adapters: int,
    positions: int,
    answers: int,
    **shared: int,
) -> StepTime | None:
    """A step of so many positions and supervised positions for each adapter; None: it does not fit into the memory.

    Args:
        kept: counts without gradient checkpointing; recomputed: with it, where it may be used if that is faster.
        shared: ``ranks`` and ``beside`` of ``TrainingMemory.of``.
    """
    whole = adapters * positions

    def time(counts: Counts) -> StepTime | None:
        need = TrainingMemory.of(counts, adapters, **shared)
        most = need.positions(machine.memory, answers / positions)
        if most <= 0:
            return None
        passes = math.ceil(whole / most)
        each, each_answers = whole / passes, adapters * answers / passes
        seconds = passes * machine.seconds(counts.position.at(each).plus(counts.answer.at(each_answers)))
        peak = need.peak(math.ceil(each), math.ceil(each_answers))
        useful = kept.position.at(each).plus(kept.answer.at(each_answers)).flops
        mfu = passes * useful / seconds / machine.flops
        return StepTime(adapters, passes, seconds, whole / seconds, peak, counts is not kept, mfu)

    times = [time(counts) for counts in (kept, recomputed) if counts is not None]
    return min((one for one in times if one is not None), key=lambda one: one.seconds, default=None)


def best_pack(
    kept: Counts, recomputed: Counts | None, machine: Machine, most: int, positions: int, answers: int, **shared: int
) -> StepTime | None:
    """The step of 1, 2, 4, ... up to ``most`` adapters that computes most positions a second; as of ``step_time``."""
    sizes = [*(2**power for power in range((most - 1).bit_length())), most]
    found = [step_time(kept, recomputed, machine, size, positions, answers, **shared) for size in sizes]
    return max((one for one in found if one is not None), key=lambda one: one.tokens_per_second, default=None)


def decoding_seconds(counts: Counts, machine: Machine, utterances: int, rows: int, prompt: int, tokens: int) -> float:
    """A batch of utterances, decoded to the longest answer, of so many tokens.

    Args:
        counts: of a model with an adapter. rows: of the batch, one for each utterance and setting. prompt: positions of
            one prompt; computing it is a third of a pass there and back.
    """
    return machine.seconds(counts.position.at(utterances * prompt)) / 3 + tokens * machine.seconds(counts.row.at(rows))
