"""Memory of a training and of a decoding, predicted from counted operations (``counted``). A training::

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
    def of(cls, counts: Counts, adapters: int = 1, ranks: int = 1, beside: int = 0) -> TrainingMemory:
        """Of adapters that train together; a position of one and the same position of another are two.

        Args:
            ranks: among which the base's layers are shared out. beside: bytes of an encoder of recordings.
        """
        base = counts.base_bytes if ranks == 1 else counts.bytes_on(ranks)
        fixed = base + beside + adapters * TRAINED_BYTES * counts.trained + round(counts.answer.fixed.peak)
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


# Bytes of a sampled path for every token of the vocabulary: its logits twice in their own format, in float32 once as
# they are and once divided, probabilities, and these sorted with their places, for which CUDA needs as much again.
_SAMPLED = 40
# Bytes of a pair of a prompt's positions: their mask, and the same in the format of the attention.
_PAIR = 4


@dataclass(frozen=True)
class DecodingMemory:
    """Bytes of a batch that is decoded; ``fixed`` for base and adapter, the others in proportion to its utterances.

    prompt: of a prompt's position while it is computed, with its keys and values. features: of one in Whisper's
    features, until the batch is done. cached: keys and values of a position of a row. attended: of those of one layer,
    what a step copies for its attention. row: of a row in a step, with its logits and what is drawn from them.
    """

    fixed: int
    prompt: float
    features: float
    cached: float
    attended: float
    row: float

    @classmethod
    def of(cls, counts: Counts, heard: bool, beside: int = 0) -> DecodingMemory:
        """Of a model with an adapter.

        Args:
            heard: prompts have Whisper's features. beside: bytes of an encoder that computes them here.
        """
        config, size = counts.config, counts.dtype.itemsize
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cached = 2 * config.num_key_value_heads * head * size  # of a layer
        return cls(
            fixed=counts.base_bytes + 4 * counts.trained + beside,
            prompt=counts.prompt.each.peak,
            features=4 * config.kimia_adaptor_input_dim if heard else 0,
            cached=config.num_hidden_layers * cached,
            attended=cached + 2 * config.num_attention_heads * head * size,  # a longer one, and one for every head
            row=counts.row.each.peak + _SAMPLED * config.vocab_size,
        )

    def utterance(self, prompt: int, tokens: int, together: int, further: bool = False) -> float:
        """Bytes of one utterance of a batch.

        Args:
            prompt: positions of the longest prompt. tokens: of the longest answer that is allowed.
            together: settings that are decoded at once, each by a row of its own if all answers differ.
            further: more settings come after them, which need the prompts' keys and values again.
        """
        computed = prompt * (self.prompt + self.features) + _PAIR * prompt**2 + self.row
        rows = together * ((prompt + tokens) * (self.cached + self.attended) + self.row)
        return max(computed, rows + prompt * (self.features + (self.cached if further else 0)))

    def utterances(self, memory: float, each: float, context: int = CONTEXT_BYTES) -> int:
        """The most utterances of a batch for which ``memory`` bytes suffice; 0: not even one does.

        Args:
            context: bytes of a device's memory that its libraries take; 0 where ``memory`` is without them.
        """
        return max(0, int((SAFE * memory - context - self.fixed) / each))
