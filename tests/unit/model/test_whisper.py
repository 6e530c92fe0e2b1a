from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.published_layout import write_whisper
from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.model.audio_frontend import PREPROCESSOR_CONFIG
from kimi_audio_ft.model.whisper import SHAPE_7B, WhisperFeatureExtractor

TINY = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 16,
    "max_source_positions": 1500,
}


@pytest.fixture(scope="module")
def extractor() -> WhisperFeatureExtractor:
    torch.manual_seed(3)
    return WhisperFeatureExtractor(TINY).eval()


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [0.1 * torch.randn(samples, generator=generator) for samples in (5000, 480001, 1, 1280, 30000)]


def test_full_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        extractor = WhisperFeatureExtractor(SHAPE_7B)
    assert sum(parameter.numel() for parameter in extractor.parameters()) == 636_968_960
    assert extractor.output_dim == 5120
    names = dict(extractor.named_parameters())
    assert "encoder.layers.31.self_attn.k_proj.weight" in names
    assert "encoder.layers.31.self_attn.k_proj.bias" not in names
    assert extractor.encoder.config._attn_implementation == "sdpa"


def test_shapes_and_independence_of_the_other_clips(extractor: WhisperFeatureExtractor, clips: list[Tensor]) -> None:
    with torch.no_grad():
        together = extractor(clips, batch_size=4)
    assert [tuple(features.shape) for features in together] == [(4, 64), (376, 64), (1, 64), (1, 64), (24, 64)]
    for clip, features in zip(clips, together, strict=True):
        alone = extractor.encode([clip])[0]
        assert not alone.requires_grad
        torch.testing.assert_close(features, alone, atol=1e-5, rtol=0)
    assert extractor.encode([]) == []


def test_what_only_padding_needs_is_left_out(
    extractor: WhisperFeatureExtractor, clips: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are those of the whole computation, at a fraction of its last layer; an encoder that trains does all."""
    rows: list[int] = []
    hook = extractor.encoder.layer_norm.register_forward_hook(lambda module, given, out: rows.append(out.shape[1]))
    short = [clip for clip in clips if len(clip) <= 30000]
    found = extractor.encode(short)
    with monkeypatch.context() as changed:
        changed.setattr(extractor, "plain", True)
        whole = extractor.encode(short)
    extractor.train()
    trained = extractor(short)
    extractor.eval()
    hook.remove()
    assert rows == [4 * 4, 4, 4, 4 * 24, *[1500] * 2]  # encoded one by one, then in batches
    for one, other, third in zip(found, whole, trained, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(third.detach(), other, atol=1e-6, rtol=1e-5)


def test_pieces_of_30_s_are_independent(extractor: WhisperFeatureExtractor, clips: list[Tensor]) -> None:
    whole, first, rest = extractor.encode([clips[1], clips[1][:480000], clips[1][480000:]])
    torch.testing.assert_close(whole, torch.cat([first, rest]), atol=1e-5, rtol=0)


def test_forward_has_the_gradients_that_encode_lacks(extractor: WhisperFeatureExtractor, clips: list[Tensor]) -> None:
    features = extractor(clips[:1])
    torch.testing.assert_close(features[0].detach(), extractor.encode(clips[:1])[0])
    # Unequal weights: the plain sum of a layer norm is constant.
    (features[0] * torch.linspace(-1, 1, 64)).sum().backward()
    gradient = extractor.get_parameter("encoder.layers.0.self_attn.q_proj.weight").grad
    assert gradient is not None and gradient.abs().sum() > 1e-2
    extractor.zero_grad()


def test_saved_folder_has_the_published_layout(extractor: WhisperFeatureExtractor, tmp_path: Path) -> None:
    write_whisper(extractor, tmp_path)
    names = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert all(key.startswith("model.encoder.") for key in keys)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()) == PREPROCESSOR_CONFIG | {"feature_size": 16}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "whisper" and config["torch_dtype"] == "float32"


def test_transformers_reads_the_saved_folder(
    extractor: WhisperFeatureExtractor, clips: list[Tensor], tmp_path: Path
) -> None:
    write_whisper(extractor, tmp_path)
    mel_extractor = transformers.WhisperFeatureExtractor.from_pretrained(tmp_path)
    model = transformers.WhisperModel.from_pretrained(tmp_path, decoder_layers=1, decoder_attention_heads=2)
    mel = mel_extractor(clips[0].numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = model.get_encoder().eval()(mel).last_hidden_state[0, :16].reshape(4, 64)
    torch.testing.assert_close(extractor.encode(clips[:1])[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_cast(extractor: WhisperFeatureExtractor, tmp_path: Path, stored: torch.dtype) -> None:
    write_whisper(extractor, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value.to(stored) for name, value in weights.items()}, tmp_path / "model.safetensors")
    again = WhisperFeatureExtractor.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    halved = WhisperFeatureExtractor.from_pretrained(tmp_path, dtype=torch.bfloat16)
    (features,) = halved.encode([torch.zeros(3000)])
    assert features.dtype == torch.bfloat16


def test_biases_of_the_keys_are_left_out(
    extractor: WhisperFeatureExtractor, clips: list[Tensor], tmp_path: Path
) -> None:
    """Checkpoints for vLLM have some; they shift all scores of a query alike, which attention does not see."""
    write_whisper(extractor, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    biases = {f"model.encoder.layers.{layer}.self_attn.k_proj.bias": torch.zeros(16) for layer in range(2)}
    save_file(weights | biases, tmp_path / "model.safetensors")
    again = WhisperFeatureExtractor.from_pretrained(tmp_path)
    assert torch.equal(again.encode(clips[:1])[0], extractor.encode(clips[:1])[0])


def test_sharded_folder(extractor: WhisperFeatureExtractor, clips: list[Tensor], tmp_path: Path) -> None:
    write_whisper(extractor, tmp_path)
    single = tmp_path / "model.safetensors"
    names = sorted(weights := load_file(single))
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, shard_names in shards.items():
        save_file({name: weights[name] for name in shard_names}, tmp_path / shard)
    single.unlink()
    weight_map = {name: shard for shard, shard_names in shards.items() for name in shard_names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    again = WhisperFeatureExtractor.from_pretrained(tmp_path)
    assert not again.training
    assert torch.equal(again.encode(clips[:1])[0], extractor.encode(clips[:1])[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.encoder.conv1.bias": None}, r"missing conv1\.bias; unexpected none"),
        ({"model.encoder.adapter.weight": torch.zeros(1)}, r"unexpected model\.encoder\.adapter\.weight"),
        ({"model.encoder.conv1.bias": torch.zeros(3)}, r"conv1\.bias \[3\] instead of \[16\]"),
        ({"encoder.conv1.bias": torch.zeros(16)}, r"holds conv1\.bias twice"),
    ],
)
def test_wrong_tensors_are_named(
    extractor: WhisperFeatureExtractor, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    write_whisper(extractor, tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | change
    save_file({name: value for name, value in weights.items() if value is not None}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        WhisperFeatureExtractor.from_pretrained(tmp_path)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            WhisperFeatureExtractor.from_pretrained(tmp_path)

    refused(r"config\.json: cannot be read")
    for config, message in (
        ("{", r"config\.json: is not JSON"),
        ('{"d_model": 16}', r"lacks encoder_layers, .*num_mel_bins"),
        (json.dumps(TINY), r"neither model\.safetensors nor .*pickled"),
    ):
        (tmp_path / "config.json").write_text(config)
        refused(message)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    refused("not a readable safetensors file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_attention_heads": 3}, "d_model=16: must be a multiple of encoder_attention_heads=3"),
        ({"max_source_positions": 750}, "max_source_positions=750: a 30 s piece has 1500 rows"),
    ],
)
def test_impossible_configs(change: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WhisperFeatureExtractor(TINY | change)


def test_unusable_waveform(extractor: WhisperFeatureExtractor) -> None:
    with pytest.raises(UserError, match=r"waveforms\[0\]: has no samples"):
        extractor.encode([torch.zeros(0)])
