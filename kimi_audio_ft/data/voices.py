"""Who speaks and how well it was recorded: eSpeak speakers of the two domains, noise and level.

The demo's target domain has speakers that the base never heard, at other rates and pitches and in more noise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class VoiceRange:
    """One eSpeak variant with the rates (words a minute) and pitches (0 to 100) that its speakers may have."""

    variant: str
    rates: tuple[int, int]
    pitches: tuple[int, int]


@dataclass(frozen=True)
class Speaker:
    """One speaker: arguments of ``Synthesizer.speak``."""

    variant: str
    rate: int
    pitch: int

    @property
    def name(self) -> str:
        """Readable identity, for the corpus's speaker column."""
        return f"{self.variant}-r{self.rate}-p{self.pitch}"


GENERAL_VOICES = tuple(VoiceRange(variant, (200, 260), (35, 65)) for variant in ("f1", "f2", "f3", "m1", "m3", "m7"))
TARGET_VOICES = (
    VoiceRange("f5", (230, 290), (25, 75)),
    VoiceRange("linda", (190, 270), (30, 70)),
    VoiceRange("m2", (250, 300), (40, 80)),
    VoiceRange("m5", (180, 240), (20, 50)),
    VoiceRange("max", (230, 290), (30, 70)),
    VoiceRange("michel", (190, 250), (20, 60)),
)
_VOICES = {"general": GENERAL_VOICES, "target": TARGET_VOICES}
_SNR_DB = {"general": (15.0, 45.0), "target": (10.0, 30.0)}


def draw_speaker(domain: str, rng: random.Random) -> Speaker:
    """A speaker of ``domain`` ("general" or "target")."""
    voice = rng.choice(_VOICES[domain])
    return Speaker(voice.variant, rng.randint(*voice.rates), rng.randint(*voice.pitches))


def draw_snr_db(domain: str, rng: random.Random) -> float:
    """A signal-to-noise ratio in dB as rooms of ``domain`` have it."""
    return rng.uniform(*_SNR_DB[domain])


def add_noise(waveform: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Returns ``waveform`` (samples,) with room around it, noise of one random kind and a random level.

    Silence of up to 0.15 s goes before and after it. The noise is white, pink or babble (pink noise whose level goes
    up and down like distant talk), ``snr_db`` below the mean power of the speech; the peak is between 0.3 and 0.95.
    An empty waveform stays empty.
    """
    if waveform.size == 0:
        return waveform
    before, after = rng.integers(0, 2400, size=2)
    padded = np.pad(waveform.astype(np.float64), (int(before), int(after)))
    noise = _KINDS[int(rng.integers(len(_KINDS)))](padded.size, rng)
    speech_power = float(np.mean(np.square(waveform)))
    scale = np.sqrt(speech_power / np.mean(np.square(noise))) * 10.0 ** (-snr_db / 20.0)
    mixed = padded + scale * noise
    peak = max(float(np.abs(mixed).max()), 1e-9)
    return (mixed * (rng.uniform(0.3, 0.95) / peak)).astype(np.float32)


def _white(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_normal(size)


def _pink(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise whose power falls with 1 / frequency."""
    whole = 1 << (size - 1).bit_length()  # a transform of any other length may be ten times slower
    spectrum = np.fft.rfft(rng.standard_normal(whole))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.size), 1.0)), n=whole)[:size]


def _babble(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Four sources of pink noise, each swelling at a syllable-like 2 to 5 Hz (16 kHz sampling)."""
    seconds = np.arange(size) / 16_000
    total = np.zeros(size)
    for _ in range(4):
        swell = 1.0 + np.sin(2 * np.pi * (rng.uniform(2, 5) * seconds + rng.uniform()))
        total += swell * _pink(size, rng)
    return total


_KINDS = (_white, _pink, _babble)
