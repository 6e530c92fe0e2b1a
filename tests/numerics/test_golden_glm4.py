"""The speech tokenizer's codes of the published implementation, recorded with tiny random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kimi_audio_ft.model.audio_frontend import log_mel
from kimi_audio_ft.model.speech_tokenizer import SpeechTokenizer
from kimi_audio_ft.paths import TINY_MODEL
from tests.numerics.closeness import LOG_UNITS, assert_close

# Two codes so close that another order of sums may choose the other one.
LEAST_MARGIN = 1e-3
CLIPS = ("a1300ms", "a7777ms", "a30000ms", "a32160ms", "a65500ms")


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "glm4_cases.safetensors")


@pytest.fixture(scope="module", params=["published", "alternative"])
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["", "model.encoder."])
def tokenizer(
    request: pytest.FixtureRequest, variant: str, golden: Path, tmp_path_factory: pytest.TempPathFactory
) -> SpeechTokenizer:
    return written(golden, variant, request.param, tmp_path_factory.mktemp("glm4"))


def written(golden: Path, variant: str, prefix: str, folder: Path) -> SpeechTokenizer:
    facts = json.loads((golden / "glm4.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts["config"] | facts["variants"][variant]))
    weights = load_file(golden / "glm4_weights.safetensors")
    save_file({prefix + name: value for name, value in weights.items()}, folder / "model.safetensors")
    return SpeechTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("clip", CLIPS)
def test_codes(
    tokenizer: SpeechTokenizer, variant: str, waveforms: dict[str, Tensor], cases: dict[str, Tensor], clip: str
) -> None:
    (codes,) = tokenizer.encode([waveforms[clip]])
    expected, margin = cases[f"{variant}.{clip}.token_ids"], cases[f"{variant}.{clip}.margin"]
    assert codes.shape == expected.shape and codes.dtype == torch.int64
    clear = margin >= LEAST_MARGIN
    assert clear.sum() >= len(margin) - 2
    assert torch.equal(codes[clear], expected[clear])


# Last pieces shorter than a window of the STFT, whole numbers of tokens and of pieces, and neighbours of these.
LENGTHS = (1, 2, 160, 201, 1279, 1280, 1281, 1999, 2000, 30000, 480000, 480001)


@pytest.mark.parametrize("kind", ["published", "alternative", "embedded"])
def test_vectors_do_not_depend_on_the_other_pieces_of_a_batch(golden: Path, tmp_path: Path, kind: str) -> None:
    if kind == "embedded":
        tokenizer = SpeechTokenizer.from_pretrained(TINY_MODEL / "glm-4-voice-tokenizer")
    else:
        tokenizer = written(golden, kind, "", tmp_path)
    generator = torch.Generator().manual_seed(0)
    clips = [0.1 * torch.randn(samples, generator=generator) for samples in LENGTHS]
    codes = tokenizer.encode(clips, batch_size=5)
    with torch.no_grad():
        together = tokenizer.hidden(clips, batch_size=5)
        for clip, vectors, row in zip(clips, together, codes, strict=True):
            (alone,) = tokenizer.hidden([clip], batch_size=1)
            assert_close(vectors, alone)
            assert torch.equal(row, torch.cdist(alone.double(), tokenizer.codebook.weight.double()).argmin(dim=1))


# Tokens of each piece; the rows behind them in the golden tensor belong to the padding.
RECORDED_HIDDEN = {"published": {"a1300ms": [17], "a32160ms": [375, 27]}, "alternative": {"a1300ms": [17]}}


def test_pooled_hidden(
    tokenizer: SpeechTokenizer, variant: str, waveforms: dict[str, Tensor], cases: dict[str, Tensor]
) -> None:
    for clip, counts in RECORDED_HIDDEN[variant].items():
        pieces = cases[f"{variant}.{clip}.pooled_hidden"]
        expected = torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])
        with torch.no_grad():
            (hidden,) = tokenizer.hidden([waveforms[clip]])
        assert_close(hidden, expected)


def test_log_mel_is_padded_to_whole_tokens_only(waveforms: dict[str, Tensor], cases: dict[str, Tensor]) -> None:
    waveform = waveforms["a1300ms"]
    expected = cases["a1300ms.input_features"]
    padded = torch.nn.functional.pad(waveform, (0, 17 * 1280 - waveform.numel()))
    assert_close(log_mel(padded[None]), expected, LOG_UNITS)
