"""Perturbations of training audio before it is encoded: speed, room, noise, volume, in this order.

A recording has a form for every speed, volume, and version of noise and room, so that each is encoded once, whatever
trials, seeds and epochs draw it. Which noise and which room a version has depends on the recording's content alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from kimi_audio_ft.config.canonical import augment_form
from kimi_audio_ft.config.train import AugmentConfig
from kimi_audio_ft.features.sounds import LEAST_SWING, Sounds, noises, rooms
from kimi_audio_ft.manifest.audio import SAMPLE_RATE, num_samples_16k


@dataclass(frozen=True)
class Noise:
    """Noise added at a drawn place and signal-to-noise ratio (dB) of a range; versions of a recording differ."""

    sounds: Sounds
    snr: tuple[float, float]
    version: int

    def drawn(self, digest: str) -> tuple[int, float, float]:
        """Of a recording: number of its noise, its ratio, and the place in a longer noise, from 0 to 1."""
        rng = random.Random(f"noise {digest} {self.version}")
        return rng.randrange(len(self.sounds)), round(rng.uniform(*self.snr), 2), round(rng.random(), 6)

    def key(self, digest: str) -> str:
        number, snr, place = self.drawn(digest)
        return f"+noise:{self.sounds.digests[number]}:{snr:g}dB:{place:g}"

    def apply(self, waveform: Tensor, digest: str) -> Tensor:
        from torchaudio.functional import add_noise

        number, snr, place = self.drawn(digest)
        piece = _piece(self.sounds.waveform(number), len(waveform), place)
        return _within_full_scale(add_noise(waveform, piece, torch.tensor(snr)))


def _piece(noise: Tensor, length: int, place: float) -> Tensor:
    """So many samples of a noise without its offset: repeated, or from a place, or else from where it is loudest."""
    if len(noise) < length:
        noise = noise.repeat(-(-length // len(noise)))
    last = len(noise) - length
    start = round(place * last)
    low, high = noise[start : start + length].aminmax()
    if high - low < LEAST_SWING:
        start = min(max(0, int((noise - noise.mean()).abs().argmax()) - length // 2), last)
    piece = noise[start : start + length]
    return piece - piece.mean()


@dataclass(frozen=True)
class Room:
    """Convolution with a room's impulse response; level and time of the direct sound stay the recording's own."""

    sounds: Sounds
    version: int

    def drawn(self, digest: str) -> int:
        """Number of a recording's impulse response."""
        return random.Random(f"room {digest} {self.version}").randrange(len(self.sounds))

    def key(self, digest: str) -> str:
        return f"+room:{self.sounds.digests[self.drawn(digest)]}"

    def apply(self, waveform: Tensor, digest: str) -> Tensor:
        from torchaudio.functional import fftconvolve

        response = self.sounds.waveform(self.drawn(digest))
        direct = int(response.abs().argmax())
        # A negative one would turn the signal over.
        heard = fftconvolve(waveform, response * response[direct].sign())[direct : direct + len(waveform)]
        level = torch.linalg.vector_norm(heard)
        return _within_full_scale(heard * (torch.linalg.vector_norm(waveform) / level)) if level > 0 else waveform


def _within_full_scale(waveform: Tensor) -> Tensor:
    """Quieter as a whole where it would have to be clipped, which would change the ratio of speech to noise."""
    return waveform / waveform.abs().max().clamp(min=1.0)


@dataclass(frozen=True)
class Perturbation:
    """One form of every recording: speed (factor), room, noise and volume (dB)."""

    speed: float = 1.0
    gain_db: float = 0.0
    noise: Noise | None = None
    room: Room | None = None

    @property
    def _rate(self) -> int:
        """Nominal input rate in Hz that gives the intended duration when resampled to 16 kHz."""
        # As functional.speed, but rounded: it truncates 1.015 * 16000 to 16239 Hz and then needs a gigabyte of filters.
        return round(self.speed * SAMPLE_RATE)

    def key(self, digest: str) -> str:
        """Key of a recording's form in the feature store, from the recording's own key."""
        if self == UNCHANGED:
            return digest
        sounds = (part.key(digest) for part in (self.room, self.noise) if part is not None)
        return f"{digest}@{self.speed:g}x{self.gain_db:+g}dB{''.join(sounds)}"

    def num_samples(self, num_samples: int) -> int:
        return num_samples_16k(num_samples, self._rate)

    def apply(self, waveform: Tensor, digest: str) -> Tensor:
        """The perturbed waveform of the recording with this key, in [-1, 1]."""
        from torchaudio import functional

        if self.speed != 1.0:
            waveform = functional.resample(waveform, self._rate, SAMPLE_RATE)
        if self.room is not None:
            waveform = self.room.apply(waveform, digest)
        if self.noise is not None:
            waveform = self.noise.apply(waveform, digest)
        if self.gain_db:
            waveform = functional.gain(waveform, self.gain_db).clamp(-1.0, 1.0)
        return waveform


UNCHANGED = Perturbation()


@dataclass(frozen=True)
class Perturbations:
    """The forms of which training draws one for every utterance and epoch. settings: in their canonical form."""

    settings: AugmentConfig
    noises: Sounds | None = None
    rooms: Sounds | None = None

    @classmethod
    def of(cls, augment: AugmentConfig) -> Perturbations:
        """Errors of the folders of noises and rooms are those of ``features.sounds``."""
        return cls(augment_form(augment), noises(augment), rooms(augment))

    @cached_property
    def all(self) -> Sequence[Perturbation]:
        """Every form that can be drawn."""
        settings = self.settings
        with_noise = _choices(settings.noise_probability)
        with_room = _choices(settings.room_probability)
        versions = range(settings.versions if self._has_sounds else 1)
        forms = product(settings.speeds, settings.gains_db, with_noise, with_room, versions)
        return tuple(dict.fromkeys(self._form(*form) for form in forms))

    def draw(self, rng: random.Random) -> Perturbation:
        settings = self.settings
        speed, gain = rng.choice(settings.speeds), rng.choice(settings.gains_db)
        if not self._has_sounds:
            return Perturbation(speed, gain)
        noise = rng.random() < (settings.noise_probability or 0)
        room = rng.random() < (settings.room_probability or 0)
        return self._form(speed, gain, noise, room, rng.randrange(settings.versions))

    @property
    def _has_sounds(self) -> bool:
        return self.noises is not None or self.rooms is not None

    def _form(self, speed: float, gain: float, noise: bool, room: bool, version: int) -> Perturbation:
        low, high = self.settings.noise_snr
        return Perturbation(
            speed,
            gain,
            Noise(self.noises, (low, high), version) if noise and self.noises is not None else None,
            Room(self.rooms, version) if room and self.rooms is not None else None,
        )


def _choices(probability: float | None) -> tuple[bool, ...]:
    """Whether something with this probability (None: none) can be there, and not."""
    if not probability:
        return (False,)
    return (True,) if probability == 1 else (False, True)
