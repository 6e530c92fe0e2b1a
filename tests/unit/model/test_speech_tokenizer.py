from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.published_layout import write_speech_tokenizer
from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.model.speech_tokenizer import SpeechTokenizer

TINY: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 4,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 16,
    "max_source_positions": 1500,
    "pooling_type": "avg",
    "pooling_kernel_size": 4,
    "pooling_position": 2,
    "quantize_position": 2,
    "quantize_vocab_size": 50,
    "quantize_causal_block_size": 20,
    "encoder_causal_convolution": True,
}


def built(seed: int = 5, **changes: Any) -> SpeechTokenizer:
    torch.manual_seed(seed)
    tokenizer = SpeechTokenizer(TINY | changes).eval()
    # Codes near the vectors, so that a clip gets many different ones.
    with torch.no_grad():
        (vectors,) = tokenizer.hidden([0.1 * torch.randn(64000)])
        tokenizer.codebook.weight.copy_(vectors[:50])
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    return built()


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [0.1 * torch.randn(samples, generator=generator) for samples in (5000, 480001, 1, 5000, 30000)]


def test_full_size_meta_model_has_the_published_names() -> None:
    published = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
    published |= {"num_mel_bins": 128, "pooling_position": 16, "quantize_position": 16, "quantize_vocab_size": 16384}
    with torch.device("meta"):
        tokenizer = SpeechTokenizer(TINY | published | {"quantize_causal_block_size": 200})
    state = tokenizer.state_dict()
    assert tokenizer.vocab_size == 16384 and state["codebook.weight"].shape == (16384, 1280)
    assert len(tokenizer.layers) == 16 and "layers.15.self_attn.q_proj.bias" in state
    assert "layers.0.self_attn.k_proj.bias" not in state
    # With the three unused tensors this is the published file's 364.6 million.
    unused = 375 * 1280 + 16384 + 16384 * 1280
    assert round((sum(value.numel() for value in state.values()) + unused) / 1e6, 1) == 364.6


def test_codes_are_exactly_those_of_a_call_with_one_clip(tokenizer: SpeechTokenizer, clips: list[Tensor]) -> None:
    together = tokenizer.encode(clips)
    assert [codes.numel() for codes in together] == [4, 376, 1, 4, 24]
    assert all(codes.dtype == torch.int64 and codes.ndim == 1 for codes in together)
    assert together[1].unique().numel() > 10
    for clip, codes in zip(clips, together, strict=True):
        assert torch.equal(codes, tokenizer.encode([clip])[0])
    assert tokenizer.encode([]) == []


def test_hidden_gives_the_vectors_that_are_searched(tokenizer: SpeechTokenizer, clips: list[Tensor]) -> None:
    with torch.no_grad():
        (vectors,) = tokenizer.hidden([clips[4]])
    assert vectors.shape == (24, 16)
    nearest = torch.cdist(vectors[None].double(), tokenizer.codebook.weight[None].double())[0].argmin(dim=1)
    assert torch.equal(nearest, tokenizer.encode([clips[4]])[0])


def hidden_of(tokenizer: SpeechTokenizer, waveform: Tensor) -> Tensor:
    with torch.no_grad():
        return tokenizer.hidden([waveform])[0]


def changed_tokens(tokenizer: SpeechTokenizer, waveform: Tensor, at_sample: int) -> list[int]:
    """Tokens whose vectors move when one stretch of 100 samples changes."""
    other = waveform.clone()
    # Flipping signs keeps the loudest frame, hence the floor of the spectrogram.
    other[at_sample : at_sample + 100] *= -1
    difference = (hidden_of(tokenizer, waveform) - hidden_of(tokenizer, other)).abs().amax(dim=1)
    return (difference > 1e-6).nonzero().flatten().tolist()


def test_block_causal_attention_sees_no_later_block(clips: list[Tensor]) -> None:
    # Blocks of 20 rows are 5 tokens; sample 17000 lies in token 13, the spectrogram reaches it from there on.
    changed = changed_tokens(built(), clips[4], 17000)
    assert min(changed) >= 10 and max(changed) == 23
    assert changed_tokens(built(quantize_causal_block_size=None), clips[4], 17000) == list(range(24))


def test_config_decides_pooling_and_convolution(clips: list[Tensor]) -> None:
    base = hidden_of(built(), clips[4])
    assert not torch.allclose(base, hidden_of(built(pooling_type="max"), clips[4]), atol=1e-3)
    assert not torch.allclose(base, hidden_of(built(encoder_causal_convolution=False), clips[4]), atol=1e-3)
    assert hidden_of(built(pooling_kernel_size=2), clips[4]).shape == (47, 16)


def test_a_trainers_settings_change_no_codes(tokenizer: SpeechTokenizer, clips: list[Tensor]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = tokenizer.encode(clips[4:])[0]
    assert torch.equal(codes, tokenizer.encode(clips[4:])[0])


@pytest.mark.parametrize("prefix", ["", "model.encoder."])
@pytest.mark.parametrize("with_unused", [True, False])
def test_folder_round_trip(
    tokenizer: SpeechTokenizer, clips: list[Tensor], tmp_path: Path, prefix: str, with_unused: bool
) -> None:
    write_speech_tokenizer(tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if with_unused:
        weights |= {"embed_positions2.weight": torch.zeros(375, 16), "ema_count": torch.zeros(50)}
        weights |= {"ema_weight": torch.zeros(50, 16), "layers.2.fc1.bias": torch.zeros(32)}
    save_file({prefix + name: value for name, value in weights.items()}, tmp_path / "model.safetensors")
    again = SpeechTokenizer.from_pretrained(tmp_path)
    assert not again.training
    assert torch.equal(again.encode(clips[4:])[0], tokenizer.encode(clips[4:])[0])


def test_half_precision_file_is_computed_in_float32(tokenizer: SpeechTokenizer, tmp_path: Path) -> None:
    write_speech_tokenizer(tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value.bfloat16() for name, value in weights.items()}, tmp_path / "model.safetensors")
    again = SpeechTokenizer.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling_type": "mean"}, "pooling_type='mean': must be 'avg' or 'max'"),
        ({"pooling_kernel_size": None}, "pooling_kernel_size=None: must be a positive integer"),
        ({"pooling_position": 1}, "pooling_position=1: must be quantize_position=2"),
        ({"quantize_position": 5, "pooling_position": 5}, "quantize_position=5: must be 1 to encoder_layers"),
        ({"quantize_causal_block_size": -1}, "quantize_causal_block_size=-1: must be null or positive"),
        ({"encoder_attention_heads": 3}, "encoder_attention_heads=3: must divide d_model"),
        ({"encoder_causal_attention": True}, "encoder_causal_attention=True: only false"),
        ({"max_source_positions": 750}, "max_source_positions=750: a 30 s piece has 1500 rows"),
    ],
)
def test_configs_that_cannot_be_followed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SpeechTokenizer(TINY | change)


def test_incomplete_folders_are_named(tokenizer: SpeechTokenizer, tmp_path: Path) -> None:
    write_speech_tokenizer(tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "extra.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"missing none; unexpected extra\.weight"):
        SpeechTokenizer.from_pretrained(tmp_path)
    del weights["codebook.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"missing codebook\.weight"):
        SpeechTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 16}))
    with pytest.raises(DataError, match=r"lacks .*quantize_vocab_size"):
        SpeechTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("waveform", [torch.zeros(0), torch.zeros(2, 5), torch.tensor([float("nan")])])
def test_unusable_waveforms(tokenizer: SpeechTokenizer, waveform: Tensor) -> None:
    with pytest.raises(UserError, match=r"waveforms\[0\]"):
        tokenizer.encode([waveform])
