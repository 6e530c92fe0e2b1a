"""Floating-point operations of a training step with a frozen base, from the model's own matrices.

A product of ``[T, in]`` with an ``[in, out]`` matrix is ``2 * T * in * out`` operations. With T positions, C of them
audio codes, A of them supervised, in R rows of S positions each::

    forward    2 T (layers + lora) + 2 C adaptor + 2 A head + attention,   attention = 4 R S^2 (heads * head_dim) layers
    backward   2 T layers + 4 T lora + 2 A head + 2 attention
    recompute  2 T (layers + lora) + attention                             only with gradient checkpointing

The frozen matrices get no gradient of their own, only their inputs do: 2 T where full training has 4 T. Nothing flows
back into embeddings or the adaptor. Attention counts all S^2 pairs, also those that the causal mask hides; norms,
softmax, the embedding look-up and the optimizer are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft import PeftModel

from kimi_audio_ft.model import KimiAudioConfig


@dataclass(frozen=True)
class Matrices:
    """Numbers of elements by place, and the width of attention summed over the layers."""

    layers: int
    lora: int
    adaptor: int
    head: int
    attention_width: int

    @classmethod
    def of(cls, model: PeftModel, config: KimiAudioConfig) -> Matrices:
        """Count the matrices of an adapted decoder that was made without the audio branch."""
        counts = dict.fromkeys(("layers", "lora", "adaptor", "head"), 0)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed_tokens" not in name:
                counts[_place(name)] += parameter.numel()
        width = config.num_attention_heads * config.head_dim * config.num_hidden_layers
        return cls(**counts, attention_width=width)


def _place(name: str) -> str:
    if ".lora_" in name:
        return "lora"
    if ".vq_adaptor." in name:
        return "adaptor"
    return "head" if ".lm_head." in name else "layers"


@dataclass(frozen=True)
class StepFlops:
    """Operations of one step; ``recompute`` is 0 without gradient checkpointing."""

    forward: int
    backward: int
    recompute: int

    @property
    def useful(self) -> int:
        """FLOPs that the step needs: the numerator of MFU."""
        return self.forward + self.backward

    @property
    def performed(self) -> int:
        """FLOPs that the device does: the numerator of HFU."""
        return self.useful + self.recompute


def step_flops(matrices: Matrices, batch: dict[str, Any], checkpointing: bool) -> StepFlops:
    """Operations of one training step on a padded batch (``make_batch``)."""
    rows, length = batch["inputs"]["input_ids"].shape
    positions = rows * length
    codes = int(batch["inputs"]["is_continuous_mask"].sum())
    head = 2 * int(batch["text_loss_mask"].sum()) * matrices.head
    layers, lora = 2 * positions * matrices.layers, 2 * positions * matrices.lora
    attention = 4 * rows * length**2 * matrices.attention_width
    return StepFlops(
        forward=layers + lora + 2 * codes * matrices.adaptor + head + attention,
        backward=layers + 2 * lora + head + 2 * attention,
        recompute=(layers + lora + attention) if checkpointing else 0,
    )
