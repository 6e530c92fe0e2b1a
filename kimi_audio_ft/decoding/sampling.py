"""Choosing the next tokens of rows under several settings, as published but stable at any temperature.

A token is drawn by inverting the distribution at one uniform number per row, so a row's choice depends on its own
number and logits only, not on the rest of the batch. Shape suffixes: B rows, V vocabulary, T generated tokens, K the
likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import torch
from torch import Tensor

from kimi_audio_ft.config.canonical import decoding_form
from kimi_audio_ft.config.train import DecodingConfig


@dataclass(frozen=True, order=True)
class SamplingRule:
    """The part of a decoding setting that a token's choice depends on.

    Sorted by its fields, rules that share work are neighbours: first the penalty, then the search for the likeliest.
    """

    penalty: float
    window: int
    top_k: int
    temperature: float

    @classmethod
    def of(cls, setting: DecodingConfig) -> SamplingRule:
        """The rule of a decoding setting, equal for settings that choose the same tokens."""
        form = decoding_form(setting)
        penalty, window = form.text_repetition_penalty, form.text_repetition_window_size
        return cls(penalty, window, form.text_top_k, form.text_temperature)


def penalize_repetition(logits_BV: Tensor, generated_BT: Tensor, penalty: float, window: int) -> Tensor:
    """Make each distinct token among the last ``window`` generated ones less likely, once (published rule).

    Nothing changes unless the penalty is above 1 and *more* than ``window`` tokens were generated. Negative logits are
    multiplied by the penalty, others divided by it; the prompt does not count. Without rows (``[V]`` and ``[T]``) it
    does the same.
    """
    if penalty <= 1.0 or generated_BT.shape[-1] <= window:
        return logits_BV
    recent = generated_BT[..., -window:].long()  # a token that is there twice gets the same value twice
    values = logits_BV.gather(-1, recent)
    return logits_BV.scatter(-1, recent, torch.where(values < 0, values * penalty, values / penalty))


def ranked(scaled_BV: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The ``top_k`` likeliest tokens (0: all) by probability, then by token: their probabilities and ids ``[B, K]``.

    The probabilities are ``softmax(scaled)`` over these tokens, for logits divided by their temperatures. The published
    code exponentiates log-probabilities divided by the temperature without normalising again, which underflows to zero
    weights at temperatures near 0.01.
    """
    if not 0 < top_k < scaled_BV.shape[-1]:
        return scaled_BV.softmax(-1).sort(dim=-1, descending=True, stable=True)
    kept = scaled_BV.topk(top_k, dim=-1)
    masked_BV = torch.full_like(scaled_BV, -torch.inf).scatter(-1, kept.indices, kept.values)
    tokens_BK = kept.indices.sort(-1).values
    ordered_BK, indices = masked_BV.softmax(-1).gather(-1, tokens_BK).sort(dim=-1, descending=True, stable=True)
    return ordered_BK, tokens_BK.gather(-1, indices)


def _draw(scaled_BV: Tensor, top_k: int, uniform_B: Tensor) -> Tensor:
    """Draw tokens ``[B]`` from logits that are divided by their temperatures."""
    ordered, order = ranked(scaled_BV, top_k)
    cumulative = _cumulative(ordered)
    # Scaled by the total (1 up to rounding), and limited to tokens of probability above 0.
    target_B1 = uniform_B.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    last_B1 = (ordered > 0).sum(-1, keepdim=True) - 1
    chosen_B1 = torch.searchsorted(cumulative, target_B1, right=True).minimum(last_B1)
    return order.gather(-1, chosen_B1).squeeze(-1)


def _cumulative(ordered_BK: Tensor) -> Tensor:
    """Sums of each row up to every column.

    CUDA adds up one row alone in an order that changes from call to call, and rows among others in one that does not.
    """
    if ordered_BK.device.type == "cuda" and len(ordered_BK) == 1:
        return ordered_BK.expand(2, -1).cumsum(-1)[:1]
    return ordered_BK.cumsum(-1)


def choose_each(
    logits_BV: Tensor, generated_BT: Tensor, rules: Sequence[tuple[SamplingRule, int]], uniform_B: Tensor
) -> Tensor:
    """Next tokens ``[B]`` of rows under several rules.

    Args:
        generated_BT: tokens that each row has generated, as many for all; used by rules with a penalty only.
        rules: rules in ascending order, each with its number of rows; the rows come in the same order.
        uniform_B: one number in [0, 1) per row.
    """
    chosen, start = [], 0
    shared = attrgetter("penalty", "window", "top_k")
    for (penalty, window, top_k), group in groupby(rules, key=lambda rule: shared(rule[0])):
        temperatures = [(rule.temperature, count) for rule, count in group if count]
        count = sum(rows for _, rows in temperatures)
        if count == 0:
            continue
        rows = slice(start, start + count)
        start += count
        logits = penalize_repetition(logits_BV[rows], generated_BT[rows], penalty, window)
        chosen.append(_choose_at(logits, temperatures, top_k, uniform_B[rows]))
    assert start == len(logits_BV), "every row has a rule"
    return torch.cat(chosen)


def _choose_at(logits_BV: Tensor, temperatures: Sequence[tuple[float, int]], top_k: int, uniform_B: Tensor) -> Tensor:
    """Tokens of rows that differ in temperature only; greedy rows come first."""
    greedy = sum(count for temperature, count in temperatures if temperature == 0)
    chosen = logits_BV[:greedy].argmax(-1)
    if greedy == len(logits_BV):
        return chosen
    warm = [(temperature, count) for temperature, count in temperatures if temperature > 0]
    # Divided by numbers, not by a tensor of them: on a GPU the two differ in the last bit.
    parts = logits_BV[greedy:].float().split([count for _, count in warm])
    scaled = torch.cat([part / temperature for part, (temperature, _) in zip(parts, warm, strict=True)])
    return torch.cat([chosen, _draw(scaled, top_k, uniform_B[greedy:])])
