"""Audio front end of both encoders: 30 s pieces, number of audio tokens, Whisper's log-mel spectrogram."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from kimi_audio_ft.errors import UserError

SAMPLE_RATE = 16000
PIECE_SAMPLES = 30 * SAMPLE_RATE
SAMPLES_PER_TOKEN = 1280
FFT_SAMPLES = 400
HOP_SAMPLES = 160

PREPROCESSOR_CONFIG: dict[str, Any] = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": HOP_SAMPLES,
    "n_fft": FFT_SAMPLES,
    "n_samples": PIECE_SAMPLES,
    "nb_max_frames": PIECE_SAMPLES // HOP_SAMPLES,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "sampling_rate": SAMPLE_RATE,
}
"""``preprocessor_config.json`` as both published encoders have it; ``feature_size`` is the encoder's num_mel_bins."""


def num_audio_tokens(num_samples: int, samples_per_token: int = SAMPLES_PER_TOKEN) -> int:
    """Tokens, and rows of Whisper features, of a 16 kHz recording: 12.5 per second.

    The sum over its 30 s pieces of ceil(samples / 1280). Raises UserError for a recording without samples.
    """
    if num_samples <= 0:
        raise UserError(f"num_samples={num_samples}: a recording needs at least one sample. Remove it from the data")
    whole, rest = divmod(num_samples, PIECE_SAMPLES)
    return whole * -(-PIECE_SAMPLES // samples_per_token) + -(-rest // samples_per_token)


def split_pieces(waveform: Tensor) -> list[Tensor]:
    """Cut ``[L]`` every 30 s; a last piece of any length above 0 counts."""
    return list(waveform.split(PIECE_SAMPLES))


def checked_waveforms(waveforms: Any) -> list[Tensor]:
    """The waveforms as 1-D float32 tensors (numpy arrays are taken too), or a UserError that names the position."""
    return [_checked_waveform(waveform, position) for position, waveform in enumerate(waveforms)]


def _checked_waveform(waveform: Any, position: int) -> Tensor:
    name = f"waveforms[{position}]"
    waveform = torch.as_tensor(waveform)
    if waveform.ndim != 1:
        raise UserError(
            f"{name}: shape {tuple(waveform.shape)}, but a waveform is 1-D [samples]. "
            "Pass a list of waveforms, each mixed down to one channel"
        )
    if not waveform.is_floating_point():
        raise UserError(f"{name}: {waveform.dtype}, but samples are floats in -1..1. Divide 16-bit integers by 32768")
    if waveform.numel() == 0:
        raise UserError(f"{name}: has no samples. Remove the recording from the data")
    if not torch.isfinite(waveform).all():
        raise UserError(f"{name}: holds NaN or infinite samples. Read the recording again or remove it")
    return waveform.to(torch.float32)


def pad_pieces(pieces: list[Tensor], num_samples: int, device: torch.device) -> Tensor:
    """Zero-padded rows ``[len(pieces), num_samples]`` on ``device``."""
    padded = torch.zeros(len(pieces), num_samples, device=device)
    for row, piece in zip(padded, pieces, strict=True):
        row[: piece.numel()] = piece
    return padded


def log_mel(waveforms: Tensor, num_mel_bins: int = 128, samples: int | None = None) -> Tensor:
    """Whisper's log-mel spectrogram of 16 kHz waveforms, ``[B, L]`` to float32 ``[B, num_mel_bins, L // 160]``.

    As OpenAI's Whisper computes it (Radford et al. 2022): power spectrum in centred periodic Hann windows of 25 ms
    every 10 ms without the last frame, area-normalised Slaney filters up to 8 kHz, log10, at most 8 below the
    maximum of the row (padding included), scaled by (x + 4) / 4. L has to be above 200 for the reflected edge.

    Args:
        samples: from here on all rows are zeros, whose spectrum nobody has to compute; None: nothing is known of them.
    """
    frames = waveforms.shape[-1] // HOP_SAMPLES
    if samples is not None:  # the first whole frame behind the last window that hears anything
        waveforms = waveforms[..., : -(-(samples + FFT_SAMPLES) // HOP_SAMPLES) * HOP_SAMPLES]
    with float32_arithmetic(waveforms.device):
        waveforms = waveforms.to(torch.float32)
        window = torch.hann_window(FFT_SAMPLES, device=waveforms.device)
        spectrum = torch.stft(
            waveforms, FFT_SAMPLES, HOP_SAMPLES, window=window, center=True, pad_mode="reflect", return_complex=True
        )
        power = spectrum[..., :-1].abs().square()
        energy = _mel_filters(num_mel_bins, waveforms.device) @ power
        heard = min(energy.shape[-1] + 1, frames)  # one frame of silence stands for all that follow
        energy = torch.nn.functional.pad(energy, (0, heard - energy.shape[-1]))
        decades = energy.clamp(min=1e-10).log10()
        floor = decades.amax(dim=(-2, -1), keepdim=True) - 8.0
        mel = (torch.maximum(decades, floor) + 4.0) / 4.0
        return torch.cat([mel, mel[..., -1:].expand(*mel.shape[:-1], frames - heard)], -1)


@lru_cache(maxsize=8)
def _mel_filters(num_mel_bins: int, device: torch.device) -> Tensor:
    """Float32 ``[num_mel_bins, 201]``."""
    filters = mel_filter_bank(
        num_frequency_bins=FFT_SAMPLES // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).T.contiguous().to(device=device, dtype=torch.float32)


@contextmanager
def float32_arithmetic(device: torch.device) -> Iterator[None]:
    """Context without autocast and TF32: a trainer's speed settings must not change codes or spectra."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    with (
        torch.autocast(device.type, enabled=False),
        cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False),
    ):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
