from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.model.audio_frontend import (
    PIECE_SAMPLES,
    PREPROCESSOR_CONFIG,
    checked_waveforms,
    float32_arithmetic,
    log_mel,
    num_audio_tokens,
    pad_pieces,
    split_pieces,
)


@pytest.mark.parametrize(
    ("samples", "tokens"),
    [(1, 1), (1279, 1), (1280, 1), (1281, 2), (480000, 375), (480001, 376), (514560, 402), (1048000, 819)],
)
def test_number_of_tokens(samples: int, tokens: int) -> None:
    assert num_audio_tokens(samples) == tokens
    assert sum(num_audio_tokens(piece.numel()) for piece in split_pieces(torch.zeros(samples))) == tokens


def test_number_of_tokens_of_another_pooling_is_counted_per_piece() -> None:
    assert num_audio_tokens(480000, 320 * 7) == 215  # 214.29 per piece
    assert num_audio_tokens(480000 + 1, 320 * 7) == 216
    assert num_audio_tokens(2 * 480000, 320 * 7) == 430


@pytest.mark.parametrize("samples", [0, -5])
def test_no_samples_is_an_error(samples: int) -> None:
    with pytest.raises(UserError, match=f"num_samples={samples}: .*at least one sample"):
        num_audio_tokens(samples)


def test_pieces_are_the_waveform() -> None:
    waveform = torch.arange(2 * PIECE_SAMPLES + 3.0)
    pieces = split_pieces(waveform)
    assert [piece.numel() for piece in pieces] == [PIECE_SAMPLES, PIECE_SAMPLES, 3]
    assert torch.equal(torch.cat(pieces), waveform)
    assert len(split_pieces(waveform[:PIECE_SAMPLES])) == 1


def test_log_mel_equals_the_library_extractor() -> None:
    noise = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    noise[1, 9000:] = 0
    extractor = transformers.WhisperFeatureExtractor(**PREPROCESSOR_CONFIG)
    expected = extractor(list(noise.numpy()), sampling_rate=16000, return_tensors="pt")["input_features"]
    mel = log_mel(pad_pieces(list(noise), PIECE_SAMPLES, torch.device("cpu")))
    assert mel.shape == (2, 128, 3000)
    torch.testing.assert_close(mel, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [1, 160, 16001, 20000, PIECE_SAMPLES - 300, PIECE_SAMPLES])
def test_log_mel_leaves_out_silence_that_it_is_told_of(samples: int) -> None:
    """The end of the sound falls anywhere in a window, and its spectrum reaches into the next."""
    waveforms = 0.1 * torch.randn(2, PIECE_SAMPLES, generator=torch.Generator().manual_seed(0))
    waveforms[:, samples:] = 0
    torch.testing.assert_close(log_mel(waveforms, samples=samples), log_mel(waveforms), atol=1e-6, rtol=0)


def test_log_mel_is_float32_and_keeps_rows_apart() -> None:
    noise = torch.randn(3, 3200, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1.0], [0.01], [1e-4]])
    mel = log_mel(noise)
    assert mel.shape == (3, 128, 20)
    for row in range(3):
        torch.testing.assert_close(mel[row], log_mel(noise[row : row + 1])[0], atol=1e-6, rtol=0)
    rounded = noise.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = log_mel(rounded)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, log_mel(rounded.float()))


def test_float32_arithmetic_restores_the_settings() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with float32_arithmetic(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_numpy_and_other_float_widths_are_taken() -> None:
    first, second = checked_waveforms([np.array([0.5, -0.5]), torch.tensor([0.25], dtype=torch.float16)])
    assert first.dtype == second.dtype == torch.float32
    assert first.tolist() == [0.5, -0.5] and second.tolist() == [0.25]


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(1, 5), r"waveforms\[1\]: shape \(1, 5\).*1-D"),
        (torch.zeros(5, dtype=torch.int16), r"waveforms\[1\]: torch.int16.*Divide"),
        (torch.zeros(0), r"waveforms\[1\]: has no samples"),
        (torch.tensor([0.0, float("nan")]), r"waveforms\[1\]: holds NaN"),
        (torch.tensor([0.0, float("inf")]), r"waveforms\[1\]: holds NaN or infinite"),
    ],
)
def test_unusable_waveforms(waveform: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_waveforms([torch.zeros(4), waveform])


@pytest.mark.slow
def test_package_imports_torch_only_when_a_name_is_used() -> None:
    code = (
        "import sys, kimi_audio_ft.model as m; assert 'torch' not in sys.modules; "
        "assert 'SpeechTokenizer' in dir(m); m.num_audio_tokens; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_of_the_package() -> None:
    import kimi_audio_ft.model

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = kimi_audio_ft.model.Nothing
