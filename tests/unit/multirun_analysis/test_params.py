"""Equality and order of swept values, and which of them apply to the base."""

from __future__ import annotations

from multirun_analysis.params import distinct, identity, is_of_base


def test_values_of_mixed_types_are_told_apart_and_ordered() -> None:
    assert identity(1) == identity(1.0) and identity(1) != identity(True)
    assert distinct([0.3, "b", None, 0, 0.0, "a"]) == [0, 0.3, "a", "b", None]


def test_a_base_has_a_prompt_and_a_decoding_but_no_training() -> None:
    params = ("decoding.text_temperature", "prompt", "data.prompt", "prompt.hotwords")
    assert all(map(is_of_base, params))
    params = ("prompt.distractors", "lora.r", "data.train_subset")
    assert not any(map(is_of_base, params))
