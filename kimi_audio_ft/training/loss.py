"""Cross-entropy of the two streams."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# The published code adds this to the number of supervised positions.
_EPSILON = 1e-4


def stream_loss(logits_BSV: Tensor, labels_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Published loss of one stream: ``sum(mask * cross_entropy) / (sum(mask) + 1e-4)``; 0 with an empty mask.

    Labels and mask are shifted already (position p holds what p has to predict).
    """
    losses_N = functional.cross_entropy(logits_BSV[mask_BS].float(), labels_BS[mask_BS], reduction="sum")
    return losses_N / (mask_BS.sum() + _EPSILON)


def two_stream_loss(
    text_logits: Tensor,
    audio_logits: Tensor,
    text_labels: Tensor,
    audio_labels: Tensor,
    text_loss_mask: Tensor,
    audio_loss_mask: Tensor,
) -> Tensor:
    """Published training loss: text stream plus audio stream, unweighted."""
    text = stream_loss(text_logits, text_labels, text_loss_mask)
    return text + stream_loss(audio_logits, audio_labels, audio_loss_mask)


def answer_loss(logits_NV: Tensor, labels_N: Tensor, rows_N: Tensor, num_rows: int, average: str) -> Tensor:
    """Summed loss of the supervised positions of a micro-batch, before division by the global batch.

    Args:
        logits_NV: logits at the N supervised positions only.
        labels_N: their labels.
        rows_N: the sample each position belongs to, 0 to ``num_rows - 1``.
        average: "sample" sums each sample's mean over its positions (the published averaging, which weighs a short
            answer's tokens more); "token" sums over positions.

    Returns:
        A scalar; dividing it by the number of samples or of positions of the *whole* optimizer step gives a loss that
        does not depend on how the step was cut into micro-batches or ranks.
    """
    if average == "token":
        return functional.cross_entropy(logits_NV.float(), labels_N, reduction="none").sum()
    return row_losses(logits_NV, labels_N, rows_N, num_rows).sum()


def row_losses(logits_NV: Tensor, labels_N: Tensor, rows_N: Tensor, num_rows: int) -> Tensor:
    """Published mean loss of every sample of a micro-batch, ``[num_rows]``, in nats per supervised position.

    Arguments as for ``answer_loss``; a sample without a supervised position has 0.
    """
    losses_N = functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    sums = torch.zeros(num_rows, device=losses_N.device).index_add_(0, rows_N, losses_N)
    counts = torch.bincount(rows_N, minlength=num_rows)
    return sums / (counts + _EPSILON)
