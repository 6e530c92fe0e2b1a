"""Text to speech with eSpeak NG, with random speakers and noise, for the demo corpus and the tiny base's training.

A ctypes binding of ``libespeak-ng`` (``speak_lib.h``, 1.52), which the PyPI package ``espeakng-loader`` ships with its
voice data; no shell, no system files. eSpeak is a formant synthesizer: robotic, but hundreds of times faster than real
time and with many speaker variants.
"""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.errors import ConfigError, UserError

SAMPLE_RATE = 16_000

# Constants of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2  # retrieval mode; espeak_Synth returns after delivering all samples
_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_RATE, _VOLUME, _PITCH = 1, 2, 3
_RATE_LIMITS = (80, 450)  # words per minute; eSpeak silently clips values outside
_PITCH_LIMITS = (0, 100)
_MANDARIN = "cmn"
_NOISE_SEED = 1  # espeak_Initialize would seed breath and fricative noise with the time
_QUIET_ENOUGH = 60  # louder variants clip at the default volume of 100

_SampleCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "espeak_Initialize": (ctypes.c_int, [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]),
    "espeak_ng_SetRandSeed": (ctypes.c_int, [ctypes.c_long]),
    "espeak_SetSynthCallback": (None, [_SampleCallback]),
    "espeak_SetVoiceByName": (ctypes.c_int, [ctypes.c_char_p]),
    "espeak_SetParameter": (ctypes.c_int, [ctypes.c_int, ctypes.c_int, ctypes.c_int]),
    # text, size, position, position type, end position, flags, unique identifier, user data
    "espeak_Synth": (
        ctypes.c_int,
        [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
            *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
        ],
    ),
    "espeak_Terminate": (ctypes.c_int, []),
}

# The library's state is global, so only one clip is synthesized at a time.
_LIBRARY_LOCK = threading.Lock()

Waveform = NDArray[np.float32]


class Synthesizer:
    """Text to a 16 kHz waveform, deterministically; UserError if ``espeakng-loader`` is not installed."""

    def __init__(self) -> None:
        self._library_path, self._data_path = _installed_paths()
        self.variants: list[str] = sorted(file.name for file in (self._data_path / "voices" / "!v").iterdir())

    def speak(self, text: str, variant: str = "f2", rate: int = 175, pitch: int = 50) -> Waveform:
        """Waveform of Mandarin ``text``: float32 in [-1, 1], shape (samples,), at 16 kHz.

        variant: one of ``variants``. rate: 80 to 450 words per minute. pitch: 0 to 100. Others raise ConfigError.
        """
        for option, value, (low, high) in (("rate", rate, _RATE_LIMITS), ("pitch", pitch, _PITCH_LIMITS)):
            if not low <= value <= high:
                raise ConfigError(option, value, f"must lie between {low} and {high}")
        if variant not in self.variants:
            raise ConfigError("variant", variant, "no such eSpeak variant", f"Known: {', '.join(self.variants)}")
        parameters = {_RATE: rate, _VOLUME: _QUIET_ENOUGH, _PITCH: pitch}
        return _to_16khz(*self._synthesize(text, f"{_MANDARIN}+{variant}", parameters))

    def _synthesize(self, text: str, voice: str, parameters: dict[int, int]) -> tuple[NDArray[np.int16], int]:
        """Returns 16-bit samples at eSpeak's own rate, and that rate in Hz."""
        if not text.strip():  # eSpeak would return a few milliseconds of silence
            return np.zeros(0, np.int16), SAMPLE_RATE
        encoded = text.encode("utf-8") + b"\0"
        pieces: list[NDArray[np.int16]] = []

        def collect(samples: Any, count: int, _events: Any) -> int:
            if samples and count > 0:
                pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
            return 0

        callback = _SampleCallback(collect)  # keep a reference: the library holds only the pointer
        with _LIBRARY_LOCK, _fresh_library(self._library_path) as library:
            native_rate = library.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(self._data_path).encode(), _DONT_EXIT
            )
            if native_rate <= 0:
                raise UserError(f"eSpeak NG cannot read its voice data in {self._data_path}. {_INSTALL_AGAIN}")
            library.espeak_ng_SetRandSeed(_NOISE_SEED)
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise UserError(f"eSpeak NG has no voice {voice}. {_INSTALL_AGAIN}")
            for parameter, value in parameters.items():  # after the voice, which resets them
                library.espeak_SetParameter(parameter, value, 0)
            status = library.espeak_Synth(encoded, len(encoded), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        if status != 0:
            raise UserError(f"eSpeak NG could not speak {text!r} (status {status})")
        return (np.concatenate(pieces) if pieces else np.zeros(0, np.int16)), native_rate


_INSTALL_AGAIN = "Install it again with: pip install --force-reinstall espeakng-loader"


def _installed_paths() -> tuple[Path, Path]:
    """Paths of ``espeakng-loader``'s library file and voice data folder."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            "speech synthesis needs the package espeakng-loader, which is not installed. "
            "Install it with: pip install espeakng-loader"
        ) from error
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


@contextmanager
def _fresh_library(path: Path) -> Iterator[ctypes.CDLL]:
    """Freshly loaded library with initial static variables; unloaded afterwards.

    The wave generator's phase and flutter position survive ``espeak_Terminate``, so that a clip would depend on all
    earlier ones in the process. Loading takes about a millisecond.
    """
    library = ctypes.CDLL(str(path))
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        yield library
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)


@functools.cache
def _resampler(native_rate: int) -> Any:
    # Imported here because torch is slow to import and not needed elsewhere in this file.
    import torchaudio

    return torchaudio.transforms.Resample(native_rate, SAMPLE_RATE)


def _to_16khz(samples: NDArray[np.int16], native_rate: int) -> Waveform:
    waveform = samples.astype(np.float32) / 32768.0
    if waveform.size == 0 or native_rate == SAMPLE_RATE:
        return waveform
    import torch

    resampled: Waveform = _resampler(native_rate)(torch.from_numpy(waveform)).clamp(-1.0, 1.0).numpy()
    return resampled


# Speakers and recording conditions of the two domains.


@dataclass(frozen=True)
class VoiceRange:
    """An eSpeak variant with the ranges of rate (words per minute) and pitch (0 to 100) of its speakers."""

    variant: str
    rates: tuple[int, int]
    pitches: tuple[int, int]


@dataclass(frozen=True)
class Speaker:
    """A speaker: arguments of ``Synthesizer.speak``."""

    variant: str
    rate: int
    pitch: int

    @property
    def name(self) -> str:
        """Readable name, for the corpus's speaker column."""
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
    voice = rng.choice(_VOICES[domain])
    return Speaker(voice.variant, rng.randint(*voice.rates), rng.randint(*voice.pitches))


def draw_snr_db(domain: str, rng: random.Random) -> float:
    return rng.uniform(*_SNR_DB[domain])


def add_noise(waveform: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Pads ``waveform`` (samples,) with silence, adds noise and sets a random level.

    Up to 0.15 s of silence go before and after it. The noise is white, pink or babble (pink noise whose level varies
    like distant talk), ``snr_db`` below the mean power of the speech; the peak is between 0.3 and 0.95. An empty
    waveform stays empty.
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
    """Pink noise (power proportional to 1 / frequency)."""
    whole = 1 << (size - 1).bit_length()  # a power of two: other FFT lengths can be ten times slower
    spectrum = np.fft.rfft(rng.standard_normal(whole))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.size), 1.0)), n=whole)[:size]


def _babble(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sum of four pink noise sources, each modulated at a syllable-like 2 to 5 Hz (16 kHz sampling)."""
    seconds = np.arange(size) / 16_000
    total = np.zeros(size)
    for _ in range(4):
        swell = 1.0 + np.sin(2 * np.pi * (rng.uniform(2, 5) * seconds + rng.uniform()))
        total += swell * _pink(size, rng)
    return total


_KINDS = (_white, _pink, _babble)
