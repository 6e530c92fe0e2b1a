"""Choosing a token from logits, as published, in a form that is stable at any temperature.

``choose`` is the rule for rows of one setting. ``choose_each`` takes rows of several and chooses the same tokens, bit
for bit. Shape suffixes: B rows, V vocabulary, T generated tokens, K the likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.request import GREEDY_BELOW


@dataclass(frozen=True, order=True)
class Rule:
    """What a token's choice depends on beside logits and a random number.

    The order of the fields puts rules together that share work: the penalty's, then the search for the likeliest.
    """

    penalty: float
    window: int
    top_k: int
    temperature: float

    @classmethod
    def of(cls, decoding: DecodingConfig) -> Rule:
        """The rule of a decoding setting, the same for settings that choose the same tokens."""
        penalty, window = decoding.text_repetition_penalty, decoding.text_repetition_window_size
        temperature, top_k = decoding.text_temperature, decoding.text_top_k
        if penalty <= 1.0:
            penalty, window = 1.0, 0
        if temperature <= GREEDY_BELOW:
            temperature, top_k = 0.0, 0
        return cls(penalty, window, top_k, temperature)


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


def probabilities(logits_BV: Tensor, temperature: float, top_k: int) -> Tensor:
    """Sampling probabilities ``[B, V]``: ``softmax(logits / temperature)`` over the ``top_k`` likeliest (0: all).

    The published code exponentiates log-probabilities divided by the temperature without normalising again, which
    underflows to zero weights at temperatures near 0.01.
    """
    scaled_BV = logits_BV.float() / temperature
    return scaled_BV.softmax(-1) if top_k == 0 else _of_likeliest(scaled_BV, top_k)[0]


def _of_likeliest(scaled_BV: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Probabilities ``[B, V]``, 0 but for the likeliest tokens, and those tokens ``[B, K]``."""
    kept = scaled_BV.topk(min(top_k, scaled_BV.shape[-1]), dim=-1)
    masked_BV = torch.full_like(scaled_BV, -torch.inf).scatter(-1, kept.indices, kept.values)
    return masked_BV.softmax(-1), kept.indices


def choose(logits_BV: Tensor, temperature: float, top_k: int, uniform_B: Tensor) -> Tensor:
    """Next tokens ``[B]``; greedy at temperature 0.

    A token is drawn by inverting the distribution at one uniform number per row, so a row's choice depends on its own
    number and logits only, whoever else is in the batch.
    """
    if temperature <= GREEDY_BELOW:
        return logits_BV.argmax(-1)
    return _draw(logits_BV.float() / temperature, top_k, uniform_B)


def _draw(scaled_BV: Tensor, top_k: int, uniform_B: Tensor) -> Tensor:
    """Tokens ``[B]`` from logits that are divided by their temperatures."""
    if top_k == 0:
        ordered, order = scaled_BV.softmax(-1).sort(dim=-1, descending=True, stable=True)
    else:
        # All others have no probability, so sorting these alone gives the same order: by probability, then by token.
        probabilities_BV, tokens_BK = _of_likeliest(scaled_BV, top_k)
        tokens_BK = tokens_BK.sort(-1).values
        ordered, places = probabilities_BV.gather(-1, tokens_BK).sort(dim=-1, descending=True, stable=True)
        order = tokens_BK.gather(-1, places)
    cumulative = ordered.cumsum(-1)
    # Scaled by the total, which is 1 but for rounding, and kept inside the tokens of probability above 0.
    place_B1 = uniform_B.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    last_B1 = (ordered > 0).sum(-1, keepdim=True) - 1
    chosen_B1 = torch.searchsorted(cumulative, place_B1, right=True).minimum(last_B1)
    return order.gather(-1, chosen_B1).squeeze(-1)


def choose_each(
    logits_BV: Tensor, generated_BT: Tensor, rules: Sequence[tuple[Rule, int]], uniform_B: Tensor
) -> Tensor:
    """Next tokens ``[B]`` of rows under several rules.

    Args:
        generated_BT: tokens that each row has generated, as many for all; used by rules with a penalty only.
        rules: rules in ascending order, each with its number of rows; the rows come in the same order.
        uniform_B: one number in [0, 1) per row.
    """
    chosen, start = [], 0
    for (penalty, window, top_k), group in groupby(rules, key=lambda rule: _shared_work(rule[0])):
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


def _shared_work(rule: Rule) -> tuple[float, int, int]:
    return rule.penalty, rule.window, rule.top_k


def _choose_at(logits_BV: Tensor, temperatures: Sequence[tuple[float, int]], top_k: int, uniform_B: Tensor) -> Tensor:
    """Tokens of rows that differ in temperature only; greedy rows stand in front."""
    greedy = sum(count for temperature, count in temperatures if temperature <= GREEDY_BELOW)
    chosen = logits_BV[:greedy].argmax(-1)
    if greedy == len(logits_BV):
        return chosen
    warm = [(temperature, count) for temperature, count in temperatures if temperature > GREEDY_BELOW]
    # Divided by numbers, not by a tensor of them: on a GPU the two differ in the last bit.
    parts = logits_BV[greedy:].float().split([count for _, count in warm])
    scaled = torch.cat([part / temperature for part, (temperature, _) in zip(parts, warm, strict=True)])
    return torch.cat([chosen, _draw(scaled, top_k, uniform_B[greedy:])])
