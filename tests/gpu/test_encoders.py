"""The two audio encoders on the GPU: the published numbers, the CPU's codes, and the full size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.bench_gpu.inputs import random_waveforms
from experiments.bench_gpu.shapes import Shapes, random_speech_tokenizer, random_whisper
from kimi_audio_ft.model import SpeechTokenizer, WhisperFeatureExtractor, num_audio_tokens
from kimi_audio_ft.paths import TINY_MODEL

CLIPS = ("a1300ms", "a7777ms", "a30000ms", "a32160ms", "a65500ms")
# Another FFT's rounding, about 1e-7 of a spectrum's peak, is more in bins that lie 80 dB below it.
FEATURE_TOLERANCE = 1e-3
# A code that leads by less than this part of its distance may change with the order of sums.
LEAST_LEAD = 1e-3

Distance = Callable[[Tensor, Tensor], float]


@contextmanager
def tf32() -> Iterator[None]:
    """As a trainer that asks for speed sets it."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False


def golden_tokenizer(golden: Path, folder: Path, variant: str, device: torch.device) -> SpeechTokenizer:
    facts = json.loads((golden / "glm4.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts["config"] | facts["variants"][variant]))
    save_file(load_file(golden / "glm4_weights.safetensors"), folder / "model.safetensors")
    return SpeechTokenizer.from_pretrained(folder, device)


@pytest.mark.parametrize("variant", ["published", "alternative"])
def test_published_codes_even_under_tf32(
    golden: Path, tmp_path: Path, device: torch.device, waveforms: dict[str, Tensor], variant: str
) -> None:
    tokenizer, cases = golden_tokenizer(golden, tmp_path, variant, device), load_file(golden / "glm4_cases.safetensors")
    with tf32():
        found = tokenizer.encode([waveforms[clip] for clip in CLIPS])
    for clip, codes in zip(CLIPS, found, strict=True):
        clear = cases[f"{variant}.{clip}.margin"] >= 1e-3
        assert clear.sum() >= len(clear) - 2
        assert torch.equal(codes[clear], cases[f"{variant}.{clip}.token_ids"][clear]), clip


def assert_codes_of_the_cpu(tokenizer: SpeechTokenizer, clips: list[Tensor], device: torch.device) -> Tensor:
    """Codes on the device equal the CPU's wherever the CPU's choice is clear; the pooled vectors of both, joined."""
    with torch.no_grad():
        vectors = torch.cat(tokenizer.hidden(clips))
        expected = torch.cat(tokenizer.encode(clips))
    exact = "donot_use_mm_for_euclid_dist"
    nearest = torch.cdist(vectors, tokenizer.codebook.weight, compute_mode=exact).topk(2, largest=False).values
    clear = (nearest[:, 1] - nearest[:, 0]) >= LEAST_LEAD * nearest[:, 0]
    tokenizer.to(device)
    with torch.no_grad():
        ours = torch.cat(tokenizer.hidden(clips)).cpu()
        codes = torch.cat(tokenizer.encode(clips))
    assert clear.float().mean() > 0.9
    assert torch.equal(codes[clear], expected[clear])
    return torch.stack([ours, vectors])


def test_tiny_codes_are_the_cpus(device: torch.device, waveforms: dict[str, Tensor], distance: Distance) -> None:
    """The embedded model's trained weights."""
    tokenizer = SpeechTokenizer.from_pretrained(TINY_MODEL / "glm-4-voice-tokenizer")
    ours, expected = assert_codes_of_the_cpu(tokenizer, [waveforms[clip] for clip in CLIPS[:3]], device)
    assert distance(ours, expected) < 1e-4


def test_full_size_codes_are_the_cpus(
    full_size: Shapes, device: torch.device, waveforms: dict[str, Tensor], distance: Distance
) -> None:
    """16 layers of 1280, 16,384 codes, float32: 9 s on both devices."""
    tokenizer = random_speech_tokenizer(full_size, torch.device("cpu"))
    clips = [waveforms["a1300ms"], waveforms["a7777ms"]]
    # Random codes lie at random places; only codes near the vectors have a nearest one that means anything.
    with torch.no_grad():
        vectors = torch.cat(tokenizer.hidden(clips))
        near = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(2))
        tokenizer.codebook.weight.mul_(vectors.std() / tokenizer.codebook.weight.std())
        tokenizer.codebook.weight[: len(vectors)] = vectors + 0.1 * vectors.std() * near
    ours, expected = assert_codes_of_the_cpu(tokenizer, clips, device)
    assert distance(ours, expected) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_published_features(
    golden: Path, device: torch.device, waveforms: dict[str, Tensor], distance: Distance, dtype: torch.dtype
) -> None:
    config = json.loads((golden / "whisper.json").read_text())["config"]
    extractor = WhisperFeatureExtractor(config)
    weights = load_file(golden / "whisper_weights.safetensors")
    extractor.encoder.load_state_dict({key.removeprefix("encoder."): value for key, value in weights.items()})
    extractor.to(device, dtype).eval()
    cases = load_file(golden / "whisper_cases.safetensors")
    for clip, rows in zip(CLIPS, extractor.encode([waveforms[clip] for clip in CLIPS], batch_size=3), strict=True):
        expected = cases[f"{clip}.features"][0]
        assert rows.dtype == dtype and rows.device.type == device.type
        if dtype == torch.float32:
            torch.testing.assert_close(rows.cpu(), expected, atol=FEATURE_TOLERANCE, rtol=0)
            assert distance(rows, expected) < 1e-4
        else:
            assert distance(rows, expected) < 0.03


def test_full_size_features_in_bf16(full_size: Shapes, device: torch.device, distance: Distance) -> None:
    """Whisper large-v3's shape: a batch is its clips one by one, and bf16 stays near float32."""
    quiet, loud = random_waveforms(2, 7.7, seed=1)
    clips = [*random_waveforms(1, 30.1), 0.1 * quiet.cumsum(0).sin(), loud]
    exact = random_whisper(full_size, torch.float32, device)
    reference = exact.encode(clips)
    extractor = exact.to(torch.bfloat16)
    together = extractor.encode(clips, batch_size=4)
    other_clip = distance(together[1], together[2])
    for clip, rows, expected in zip(clips, together, reference, strict=True):
        assert rows.shape == (num_audio_tokens(len(clip)), extractor.output_dim) and rows.isfinite().all()
        assert distance(rows, expected) < 0.1
        assert distance(rows, extractor.encode([clip])[0]) < min(0.05, other_clip / 2)
