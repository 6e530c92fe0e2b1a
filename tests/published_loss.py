"""The published training loss of both streams, which golden tests compare the model's logits and gradients by."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def two_stream_loss(
    text_logits: Tensor,
    audio_logits: Tensor,
    text_labels: Tensor,
    audio_labels: Tensor,
    text_loss_mask: Tensor,
    audio_loss_mask: Tensor,
) -> Tensor:
    """Text stream plus audio stream, unweighted; labels and masks are shifted (position p holds what p predicts)."""
    text = _stream_loss(text_logits, text_labels, text_loss_mask)
    return text + _stream_loss(audio_logits, audio_labels, audio_loss_mask)


def _stream_loss(logits_BSV: Tensor, labels_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """``sum(mask * cross_entropy) / (sum(mask) + 1e-4)``; 0 with an empty mask."""
    losses_N = functional.cross_entropy(logits_BSV[mask_BS].float(), labels_BS[mask_BS], reduction="sum")
    return losses_N / (mask_BS.sum() + 1e-4)
