"""The estimated signal-to-noise ratio: real recordings with noise added at known ratios, and what is no speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.corpus.noise import HIGHEST, LOWEST, signal_to_noise

RATE = 16_000


def added(speech: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """Speech with noise so many dB below it."""
    factor = np.sqrt((speech**2).mean() / (noise**2).mean() / 10 ** (decibels / 10))
    return (speech + factor * noise).astype(np.float32)


def coloured(rng: np.random.Generator, size: int, slope: float) -> np.ndarray:
    """Noise from 100 Hz on whose amplitude falls with frequency: 0 is white, 0.5 pink, 1 red."""
    spectrum = np.fft.rfft(rng.normal(size=size))
    frequencies = np.fft.rfftfreq(size, 1 / RATE)
    weights = np.where(frequencies > 100, np.maximum(frequencies, 1.0) ** -slope, 0.0)
    return np.fft.irfft(spectrum * weights, size)


def recordings(shared_dir: Path) -> list[np.ndarray]:
    """Two read by an American, four by Chinese voices."""
    audio = shared_dir / "audio"
    files = [*sorted(audio.glob("*.flac"))[:2], *sorted((audio / "mandarin").glob("0[13]_*.flac"))]
    return [soundfile.read(file, dtype="float32")[0] for file in files]


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_added_noise_is_measured(shared_dir: Path, slope: float) -> None:
    """To 2 dB where there is noise to measure, and every recording in its class: below 10, to 20, above 20 dB."""
    rng = np.random.default_rng(0)
    for speech in recordings(shared_dir):
        noise = coloured(rng, len(speech), slope)
        for decibels in (0.0, 5.0, 8.0, 13.0, 17.0, 25.0):
            found = signal_to_noise(added(speech, noise, decibels), RATE)
            assert abs(found - decibels) < 2.5
            assert np.digitize(found, [10, 20]) == np.digitize(decibels, [10, 20])
        assert signal_to_noise(speech, RATE) > 25  # as they were recorded


def test_neither_loudness_nor_an_offset_nor_the_rate_matters(shared_dir: Path) -> None:
    speech, rng = recordings(shared_dir)[0], np.random.default_rng(1)
    noisy = added(speech, rng.normal(size=len(speech)), 15.0)
    found = signal_to_noise(noisy, RATE)
    assert signal_to_noise(0.1 * noisy, RATE) == pytest.approx(found, abs=0.01)
    assert signal_to_noise(noisy + np.float32(0.2), RATE) == pytest.approx(found, abs=0.1)
    assert signal_to_noise(noisy.repeat(3), 3 * RATE) == pytest.approx(found, abs=2)
    silent = np.concatenate([np.zeros(RATE, np.float32), noisy, np.zeros(RATE, np.float32)])
    assert signal_to_noise(silent, RATE) == pytest.approx(found, abs=0.5)


def test_a_recording_whose_pauses_are_digital_silence_is_no_noisier(shared_dir: Path) -> None:
    """A gate or a synthesiser leaves nothing but speech between them: its quietest moments are no noise."""
    for speech in recordings(shared_dir)[:2]:
        loud = np.convolve(speech**2, np.full(800, 1 / 800), "same") > 0.01 * (speech**2).mean()
        assert signal_to_noise(np.where(loud, speech, 0), RATE) >= signal_to_noise(speech, RATE)


def test_pieces_are_in_their_class_and_too_short_ones_are_not_measured(shared_dir: Path) -> None:
    """Cut anywhere, also within a word."""
    rng = np.random.default_rng(3)
    for speech in recordings(shared_dir):
        for start in range(0, len(speech) - 2 * RATE, RATE):
            piece = speech[start : start + 2 * RATE]
            found = signal_to_noise(piece, RATE)
            assert found is None or found > 20
            assert signal_to_noise(added(piece, rng.normal(size=len(piece)), 15.0), RATE) == pytest.approx(15, abs=3)
            assert signal_to_noise(piece[: 19 * len(piece) // 20], RATE) is None
    for rate in (8_000, 11_025, 22_050, 44_100, 48_000):
        assert signal_to_noise(rng.normal(size=2 * rate).astype(np.float32), rate) is not None
        assert signal_to_noise(rng.normal(size=19 * rate // 10).astype(np.float32), rate) is None


def test_what_is_all_noise_or_none_has_the_bounds() -> None:
    rng = np.random.default_rng(2)
    assert LOWEST <= signal_to_noise(rng.normal(0, 0.1, 5 * RATE).astype(np.float32), RATE) < -5
    assert signal_to_noise(np.zeros(RATE, np.float32), RATE) is None
    bursts = rng.normal(size=5 * RATE) * np.where(np.arange(5 * RATE) // 4000 % 2, 0.1, 1e-4)
    assert signal_to_noise(bursts.astype(np.float32), RATE) > 30
    assert signal_to_noise(np.where(np.abs(bursts) < 1e-3, 0, bursts).astype(np.float32), RATE) == HIGHEST
