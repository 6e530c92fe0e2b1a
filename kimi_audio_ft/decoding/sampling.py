"""Choosing a token from logits, as published, in a form that is stable at any temperature."""

from __future__ import annotations

import torch
from torch import Tensor

# The published decoder takes the likeliest token at and below this temperature.
GREEDY_BELOW = 1e-6


def penalize_repetition(logits_V: Tensor, generated: Tensor, penalty: float, window: int) -> Tensor:
    """Make each distinct token among the last ``window`` generated ones less likely, once (published rule).

    Nothing changes unless the penalty is above 1 and *more* than ``window`` tokens were generated. Negative logits are
    multiplied by the penalty, others divided by it; the prompt does not count.
    """
    if penalty <= 1.0 or generated.numel() <= window:
        return logits_V
    recent = generated[-window:].long().unique()
    changed = logits_V.clone()
    values = logits_V[recent]
    changed[recent] = torch.where(values < 0, values * penalty, values / penalty)
    return changed


def probabilities(logits_BV: Tensor, temperature: float, top_k: int) -> Tensor:
    """Sampling probabilities ``[B, V]``: ``softmax(logits / temperature)`` over the ``top_k`` likeliest (0: all).

    The published code exponentiates log-probabilities divided by the temperature without normalising again, which
    underflows to zero weights at temperatures near 0.01.
    """
    scaled_BV = logits_BV.float() / temperature
    if top_k > 0:
        kept = scaled_BV.topk(min(top_k, scaled_BV.shape[-1]), dim=-1)
        scaled_BV = torch.full_like(scaled_BV, -torch.inf).scatter(-1, kept.indices, kept.values)
    return scaled_BV.softmax(-1)


def choose(logits_BV: Tensor, temperature: float, top_k: int, uniform_B: Tensor) -> Tensor:
    """Next tokens ``[B]``; greedy at temperature 0.

    A token is drawn by inverting the distribution at one uniform number per row, so a row's choice depends on its own
    number and logits only, whoever else is in the batch.
    """
    if temperature <= GREEDY_BELOW:
        return logits_BV.argmax(-1)
    probabilities_BV, order_BV = probabilities(logits_BV, temperature, top_k).sort(dim=-1, descending=True, stable=True)
    cumulative_BV = probabilities_BV.cumsum(-1)
    # Scaled by the total, which is 1 but for rounding, and kept inside the tokens of probability above 0.
    place_B1 = uniform_B.to(cumulative_BV).unsqueeze(-1) * cumulative_BV[:, -1:]
    last_B1 = (probabilities_BV > 0).sum(-1, keepdim=True) - 1
    chosen_B1 = torch.searchsorted(cumulative_BV, place_B1, right=True).minimum(last_B1)
    return order_BV.gather(-1, chosen_B1).squeeze(-1)
