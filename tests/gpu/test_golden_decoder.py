"""The decoder on the GPU against the published code's numbers: tightly in float32, within rounding in bf16.

bf16 keeps 8 bits, so its error against float32 is set by the model, not by the device. The bound is therefore three
times the error that bf16 has on the CPU: another order of sums moves it a little, a wrong kernel by far more.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.generate import generate_texts
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM
from tests.published_loss import two_stream_loss

TOLERANCE = 1e-4
BF16_FACTOR = 3.0
# bf16 moves a logit of this model by about 0.1; a lead of the likeliest token beyond this cannot be lost to it.
CLEAR_MARGIN = 1.0
BLANK = 266
RUNS = ("greedy12", "greedy_text_eos")
LOSSES = ("text_only", "audio_assistant", "both_streams", "two_segments_intended")

Distance = Callable[[Tensor, Tensor], float]


def golden_model(golden: Path, device: torch.device, dtype: torch.dtype) -> KimiAudioForCausalLM:
    config = json.loads((golden / "llm.json").read_text())["config"]
    model = KimiAudioForCausalLM(KimiAudioConfig(**config))
    model.load_state_dict(load_file(golden / "llm_weights.safetensors"))
    model.model.rotary_emb.to(device)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(device, dtype)
        assert "rotary" not in name
    return model.eval()


def tensors_on(golden: Path, name: str, device: torch.device) -> dict[str, Tensor]:
    return {key: value.to(device) for key, value in load_file(golden / f"{name}.safetensors").items()}


def inputs(cases: dict[str, Tensor], name: str) -> dict:
    keys = sorted(key for key in cases if key.startswith(f"{name}.whisper_input_feature"))
    return {
        "input_ids": cases[f"{name}.input_ids"],
        "text_input_ids": cases[f"{name}.text_input_ids"],
        "is_continuous_mask": cases[f"{name}.is_continuous_mask"].bool(),
        "audio_features": [cases[key].flatten(0, -2) for key in keys],
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["base", "multi_audio_intended"])
def test_float32_logits(golden: Path, device: torch.device, name: str, attention: str) -> None:
    model, cases = golden_model(golden, device, torch.float32), tensors_on(golden, "llm_cases", device)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        out = model(**inputs(cases, name))
    torch.testing.assert_close(out.text_logits, cases[f"{name}.logits_lm_head"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(out.audio_logits, cases[f"{name}.logits_mimo_output"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["base", "multi_audio_intended"])
def test_bf16_logits(golden: Path, device: torch.device, distance: Distance, name: str, attention: str) -> None:
    errors = {}
    for where in (torch.device("cpu"), device):
        model, cases = golden_model(golden, where, torch.bfloat16), tensors_on(golden, "llm_cases", where)
        model.set_attn_implementation(attention)
        with torch.no_grad():
            out = model(**inputs(cases, name))
        assert out.text_logits.dtype == torch.bfloat16
        errors[where.type] = (
            distance(out.text_logits, cases[f"{name}.logits_lm_head"]),
            distance(out.audio_logits, cases[f"{name}.logits_mimo_output"]),
        )
    for ours, on_cpu in zip(errors[device.type], errors["cpu"], strict=True):
        assert 1e-4 < on_cpu < 0.1, "the CPU's own rounding is the measure"
        assert ours <= BF16_FACTOR * on_cpu


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_loss_and_gradients(
    golden: Path, device: torch.device, distance: Distance, name: str, dtype: torch.dtype
) -> None:
    """float32: loss to 1e-5 of it, all gradients to 1e-4. bf16: loss to 2 %, a gradient to a tenth of its length."""
    model, cases = golden_model(golden, device, dtype).train(), tensors_on(golden, "loss", device)
    out = model(**inputs(cases, name))
    labels = [cases[f"{name}.{stream}_labels"] for stream in ("text", "audio")]
    masks = [cases[f"{name}.{stream}_loss_mask"].bool() for stream in ("text", "audio")]
    loss = two_stream_loss(out.text_logits, out.audio_logits, *labels, *masks)
    loss.backward()
    expected = cases[f"{name}.loss"].item()
    assert loss.item() == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 0.02)
    parameters, prefix = dict(model.named_parameters()), f"{name}.grad."
    compared = [key for key in cases if key.startswith(prefix) and key.removeprefix(prefix) in parameters]
    assert compared
    for key in compared:
        gradient = parameters[key.removeprefix(prefix)].grad
        assert gradient is not None, key
        if dtype == torch.float32:
            torch.testing.assert_close(gradient, cases[key], atol=TOLERANCE, rtol=0)
        elif cases[key].any():
            assert distance(gradient, cases[key]) < 0.1, key


@pytest.mark.parametrize("run", RUNS)
def test_float32_greedy_tokens(golden: Path, device: torch.device, run: str) -> None:
    """The published tokens exactly: prefill, cache and stop on the GPU."""
    expected = json.loads((golden / "sampling.json").read_text())[run]
    model, cases = golden_model(golden, device, torch.float32), tensors_on(golden, "llm_cases", device)
    prompt = inputs(cases, "base") | {"attention_mask": torch.ones_like(cases["base.input_ids"])}
    decoding = DecodingConfig(text_temperature=0.0, max_new_tokens=expected["max_new_tokens"])
    [answer] = generate_texts(model, prompt, [decoding], [[0]], expected["text_eos_id"], BLANK)[0]
    assert answer == expected["returned_text_tokens"]


def test_bf16_greedy_choice_where_the_margin_allows(golden: Path, device: torch.device) -> None:
    """Fed the published tokens at every step, bf16 chooses the published token wherever its lead is clear."""
    facts = json.loads((golden / "sampling.json").read_text())
    model, cases = golden_model(golden, device, torch.bfloat16), tensors_on(golden, "llm_cases", device)
    recorded, clear = tensors_on(golden, "sampling", device), 0
    for run in RUNS:
        with torch.no_grad():
            out = model(**inputs(cases, "base"), use_cache=True)
            for step, fed in enumerate(facts[run]["fed"]):
                if step:
                    ids = [torch.tensor([[fed[key]]], device=device) for key in ("audio_id", "text_id")]
                    out = model(*ids, past_key_values=out.past_key_values)
                expected = recorded[f"{run}.step_logits_lm_head"][step]
                first, second = expected.topk(2).values.tolist()
                if first - second >= CLEAR_MARGIN:
                    clear += 1
                    assert out.text_logits[0, -1].argmax().item() == expected.argmax().item(), (run, step)
    assert clear >= 4, "margins of so many steps are clear; else this test would say nothing"
