"""Memory of a training, told ahead from what its steps are counted to need (``counted``)::

    bytes = base + 16 * trained + head + positions * position + answers * answer

Positions are the padded ones of the largest micro-batch, answers its supervised ones. Nothing grows with the square of
a length: attention by a fused kernel keeps no pairs. head: the logits of one part, where losses are computed in parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_audio_ft.cost.counted import Counts

# Bytes for each trained number: itself, its gradient and AdamW's two moments, all float32.
TRAINED_BYTES = 16
# Part of a device's memory that a step may need: the allocator's gaps and the libraries' buffers take the rest.
SAFE = 0.9
# What the libraries hold of a GPU's memory: CUDA's context and the workspaces of its products.
CONTEXT_BYTES = 10**9


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training: ``fixed`` for base, adapters and head, and for each padded position and each answer."""

    fixed: int
    position: float
    answer: float

    @classmethod
    def of(cls, counts: Counts, adapters: int = 1) -> TrainingMemory:
        """Of adapters that train together; a position of one and the same position of another are two."""
        fixed = counts.base_bytes + adapters * TRAINED_BYTES * counts.trained + round(counts.answer.fixed.peak)
        return cls(fixed, counts.position.each.peak, counts.answer.each.peak)

    def peak(self, positions: int, answers: int) -> int:
        """Bytes of a step whose largest micro-batch has so many positions and supervised positions."""
        return round(self.fixed + self.position * positions + self.answer * answers)

    def positions(self, memory: float, answers: float = 1.0, context: int = CONTEXT_BYTES) -> int:
        """The most positions of a micro-batch for which ``memory`` bytes suffice; 0: not even base and adapters fit.

        Args:
            answers: part of the positions that is supervised; at most all are.
            context: bytes of a device's memory that its libraries take; 0 where ``memory`` is without them.
        """
        return max(0, int((SAFE * memory - context - self.fixed) / (self.position + answers * self.answer)))
