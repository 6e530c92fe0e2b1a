"""Tokens of rows under one decoding setting, by the package's own choice."""

from __future__ import annotations

import torch
from torch import Tensor

from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.sampling import SamplingRule, choose_each, ranked


def choose(logits_BV: Tensor, temperature: float, top_k: int, uniform_B: Tensor) -> Tensor:
    """Next tokens ``[B]`` of rows that have generated nothing yet, or need no penalty."""
    rule, nothing = SamplingRule.of(DecodingConfig(temperature, top_k)), torch.zeros(len(logits_BV), 0).long()
    return choose_each(logits_BV, nothing, [(rule, len(logits_BV))], uniform_B)


def probabilities(logits_BV: Tensor, temperature: float, top_k: int) -> Tensor:
    """The distribution ``[B, V]`` that tokens are drawn from."""
    ordered_BK, tokens_BK = ranked(logits_BV.float() / temperature, top_k)
    return torch.zeros_like(logits_BV, dtype=torch.float32).scatter(-1, tokens_BK, ordered_BK)
