"""Decoding settings that are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from kimi_audio_ft.config.train import DecodingConfig

# At or below this temperature the likeliest token is taken, as published.
GREEDY_BELOW = 1e-6


@dataclass(frozen=True)
class Pass:
    """One decoding of a whole evaluation set: a setting, the seed, and the number of this repeat, from 0."""

    decoding: DecodingConfig
    seed: int
    repeat: int


def is_greedy(decoding: DecodingConfig) -> bool:
    """Whether decoding draws no random number."""
    return decoding.text_temperature <= GREEDY_BELOW


@dataclass(frozen=True)
class Request:
    """A decoding setting that is asked for, with all its repeats, and the seed of their samplings."""

    decoding: DecodingConfig
    seed: int
