"""Sampling and generation against the published decoder (shared/golden, section 7)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.generate import generate_texts
from kimi_audio_ft.decoding.sampling import penalize_repetition
from kimi_audio_ft.model import KimiAudioForCausalLM
from tests.numerics.closeness import assert_close
from tests.sampling import choose, probabilities

BLANK = 266


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> tuple[dict, dict[str, Tensor]]:
    folder = shared_dir / "golden"
    return json.loads((folder / "sampling.json").read_text()), load_file(folder / "sampling.safetensors")


@pytest.fixture(scope="module")
def prompt(shared_dir: Path) -> dict:
    cases = load_file(shared_dir / "golden" / "llm_cases.safetensors")
    return {
        "input_ids": cases["base.input_ids"],
        "text_input_ids": cases["base.text_input_ids"],
        "is_continuous_mask": cases["base.is_continuous_mask"].bool(),
        "attention_mask": torch.ones_like(cases["base.input_ids"]),
        "audio_features": [cases["base.whisper_input_feature"][0]],
    }


def test_distribution(golden: tuple[dict, dict[str, Tensor]]) -> None:
    tensors = golden[1]
    full = probabilities(tensors["dist.logits"], 0.3, 0)
    assert_close(full, tensors["dist.full_probability_vector"])
    top = probabilities(tensors["dist.logits"], 0.3, 5)
    assert_close(top, tensors["dist.topk_probability_vector"])
    assert set(top.nonzero()[:, 1].tolist()) == set(tensors["dist.topk_ids"][0].tolist())
    weights = tensors["dist.unnormalised_weights_all"]
    assert_close(full, weights / weights.sum())


def test_very_small_temperature_is_greedy_and_finite(golden: tuple[dict, dict[str, Tensor]]) -> None:
    logits = golden[1]["dist.logits"]
    assert torch.isfinite(probabilities(logits, 0.01, 0)).all()
    chosen = choose(logits, 0.001, 0, torch.tensor([0.5]))
    assert chosen.item() == logits.argmax().item()


def test_draws_follow_the_distribution(golden: tuple[dict, dict[str, Tensor]]) -> None:
    logits = golden[1]["dist.logits"]
    numbers = torch.rand(20_000, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    drawn = choose(logits.expand(len(numbers), -1), 0.9, 5, numbers)
    frequency = torch.bincount(drawn, minlength=logits.shape[1]) / len(numbers)
    torch.testing.assert_close(frequency, probabilities(logits, 0.9, 5)[0], atol=0.015, rtol=0)


@pytest.mark.parametrize("length", [10, 16, 17, 25])
def test_repetition_penalty(golden: tuple[dict, dict[str, Tensor]], length: int) -> None:
    tensors = golden[1]
    recent = tensors[f"repetition.len{length}.recent_tokens"]
    after = penalize_repetition(tensors["repetition.logits"][0], recent, 1.2, 16)
    assert_close(after, tensors[f"repetition.len{length}.logits_after"][0])


@pytest.mark.parametrize("run", ["greedy12", "greedy_text_eos"])
def test_greedy_generation(
    golden: tuple[dict, dict[str, Tensor]], golden_model: KimiAudioForCausalLM, prompt: dict, run: str
) -> None:
    expected = golden[0][run]
    decoding = DecodingConfig(text_temperature=0.0, max_new_tokens=expected["max_new_tokens"])
    [answer] = generate_texts(golden_model, prompt, [decoding], [[0]], expected["text_eos_id"], BLANK)[0]
    assert answer == expected["returned_text_tokens"]


@pytest.mark.parametrize(
    "run", ["greedy12", "greedy_text_eos", "both_no_stop", "both_text_eos", "both_text_eos_audio_stop"]
)
def test_step_logits_of_both_heads(
    golden: tuple[dict, dict[str, Tensor]], golden_model: KimiAudioForCausalLM, prompt: dict, run: str
) -> None:
    """Feed what the reference fed at every step, both streams, and compare the last position's logits."""
    description, tensors = golden[0][run], golden[1]
    out = golden_model(**prompt, use_cache=True)
    for step, fed in enumerate(description["fed"]):
        if step:
            out = golden_model(
                torch.tensor([[fed["audio_id"]]]), torch.tensor([[fed["text_id"]]]), past_key_values=out.past_key_values
            )
        assert_close(out.text_logits[0, -1], tensors[f"{run}.step_logits_lm_head"][step])
        assert_close(out.audio_logits[0, -1], tensors[f"{run}.step_logits_mimo_output"][step])
