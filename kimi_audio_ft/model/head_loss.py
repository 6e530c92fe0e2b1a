"""Cross-entropy of a frozen head's answers in chunks, so that the logits of all of them never live at once.

PyTorch's ``linear_cross_entropy`` and Liger's sum or average in their chunks; our losses have a weight for each sample
and go to several adapters. The head is frozen, so that a position's gradient is known with its loss, up to one factor.

Shape suffixes: N positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

# Positions of a chunk: 0.3 GB of float32 logits of the 7B.
CHUNK = 512


def chunked_losses(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, chunk: int = CHUNK) -> Tensor:
    """Cross-entropy at every position, ``[N]``, float32, in nats."""
    if torch.is_grad_enabled() and hidden_ND.requires_grad:
        losses_N: Tensor = _Losses.apply(hidden_ND, weight_VD, labels_N, chunk)
        return losses_N
    return torch.cat([_losses(*part, weight_VD)[1] for part in _parts(hidden_ND, labels_N, chunk)])


def _parts(hidden_ND: Tensor, labels_N: Tensor, chunk: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(hidden_ND.split(chunk), labels_N.split(chunk), strict=True))


def _losses(hidden_ND: Tensor, labels_N: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of probabilities ``[N, V]``, and the losses."""
    logits_NV = linear(hidden_ND, weight_VD).float()
    logits_NV -= logits_NV.logsumexp(-1, keepdim=True)
    return logits_NV, -logits_NV.gather(1, labels_N.unsqueeze(1)).squeeze(1)


class _Losses(Function):
    """Losses, and beside them their gradients with respect to the hidden states."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, chunk: int) -> Tensor:
        losses, slopes_ND = [], torch.empty_like(hidden_ND)
        for part, slope in zip(_parts(hidden_ND, labels_N, chunk), slopes_ND.split(chunk), strict=True):
            logs_NV, losses_N = _losses(*part, weight_VD)
            losses.append(losses_N)
            slopes_NV = logs_NV.exp_()
            slopes_NV.scatter_add_(1, part[1].unsqueeze(1), -torch.ones_like(losses_N).unsqueeze(1))
            torch.mm(slopes_NV.to(weight_VD.dtype), weight_VD, out=slope)
            del logs_NV, slopes_NV  # before those of the next part are made
        ctx.save_for_backward(slopes_ND)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        [slopes_ND], [grad_N] = ctx.saved_tensors, grads
        return (slopes_ND * grad_N.unsqueeze(1)).to(slopes_ND.dtype), None, None, None
