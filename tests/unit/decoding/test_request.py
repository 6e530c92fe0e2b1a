"""A request for a setting and the requests for its repeats."""

from __future__ import annotations

from dataclasses import replace

from kimi_audio_ft.config.canonical import is_greedy
from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.request import DecodingRequest

WARM = DecodingConfig(text_temperature=0.3, text_top_k=5, repeats=3)


def test_every_repeat_of_a_sampling_is_a_request() -> None:
    assert DecodingRequest(WARM, 7).repeats() == [DecodingRequest(WARM, 7, repeat) for repeat in range(3)]


def test_a_greedy_setting_has_one_repeat_whatever_would_be_drawn() -> None:
    cold = replace(WARM, text_temperature=0.0)
    assert is_greedy(cold) and is_greedy(replace(cold, text_temperature=1e-7)) and not is_greedy(WARM)
    [one] = DecodingRequest(cold, 7).repeats()
    assert one == DecodingRequest(replace(cold, text_top_k=0, repeats=1), 0)
    assert [one] == DecodingRequest(replace(cold, text_temperature=1e-7, text_top_k=9, repeats=1), 8).repeats()
    assert [one] == DecodingRequest(replace(WARM, text_top_k=1), 8).repeats() == DecodingRequest.greedy(WARM).repeats()
