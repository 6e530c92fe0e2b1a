"""Loss and gradients against the published training code (shared/golden, section 2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.training.module import answer_loss
from tests.numerics.closeness import assert_close, assert_losses_close
from tests.published_loss import two_stream_loss

CASES = ["text_only", "audio_assistant", "both_streams", "two_segments_intended"]


@pytest.fixture
def model(golden_model: KimiAudioForCausalLM) -> KimiAudioForCausalLM:
    return golden_model.train()


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> tuple[dict, dict]:
    folder = shared_dir / "golden"
    description = {c["name"]: c for c in json.loads((folder / "loss.json").read_text())["cases"]}
    return description, load_file(folder / "loss.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients(model: KimiAudioForCausalLM, golden: tuple[dict, dict], name: str) -> None:
    description, tensors = golden
    case = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
    stored = sorted(key for key in case if key.startswith("whisper_input_feature"))
    features = [case[key].flatten(0, -2).requires_grad_() for key in stored]
    out = model(case["input_ids"], case["text_input_ids"], case["is_continuous_mask"].bool(), features)
    assert_close(out.text_logits, case["logits_lm_head"])
    assert_close(out.audio_logits, case["logits_mimo_output"])
    loss = two_stream_loss(
        out.text_logits,
        out.audio_logits,
        case["text_labels"],
        case["audio_labels"],
        case["text_loss_mask"].bool(),
        case["audio_loss_mask"].bool(),
    )
    loss.backward()
    assert_losses_close([loss.item()], [case["loss"].item()])
    parameters = dict(model.named_parameters())
    compared = [key for key in case if key.removeprefix("grad.") in parameters]
    assert len(compared) == len(description[name]["gradients_stored_for"])
    for key in compared:
        assert_close(parameters[key.removeprefix("grad.")].grad, case[key])
    for key, feature in zip(stored, features, strict=True):
        expected = case[f"grad.{key}"].flatten(0, -2)
        assert_close(feature.grad, expected)
    for key in description[name]["params_with_zero_gradient"]:
        gradient = parameters[key].grad
        assert gradient is None or not gradient.any(), key


def test_supervised_positions_alone_give_the_published_text_loss(
    model: KimiAudioForCausalLM, golden: tuple[dict, dict]
) -> None:
    """Training computes logits at supervised positions only, without the branch: same loss, same gradients."""
    tensors = golden[1]
    case = {key.removeprefix("text_only."): t for key, t in tensors.items() if key.startswith("text_only.")}
    mask = case["text_loss_mask"].bool()
    out = model(
        case["input_ids"],
        case["text_input_ids"],
        case["is_continuous_mask"].bool(),
        [case["whisper_input_feature.0"][0]],
        audio_branch=False,
        text_positions=mask,
    )
    assert out.text_logits.shape[0] == mask.sum()
    loss = answer_loss(out.text_logits, case["text_labels"][mask], mask.nonzero()[:, 0], 1, "sample")
    loss.backward()
    assert_losses_close([loss.item()], [case["loss"].item()])
    gradient = model.model.layers[0].self_attn.q_proj.weight.grad
    expected = case["grad.model.layers.0.self_attn.q_proj.weight"]
    assert_close(gradient, expected)
