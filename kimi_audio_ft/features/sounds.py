"""Folders of noises and of rooms' impulse responses, which training audio is mixed and convolved with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from kimi_audio_ft.config.canonical import augment_form
from kimi_audio_ft.config.train import AugmentConfig
from kimi_audio_ft.errors import ChangedError, ConfigError, DataError
from kimi_audio_ft.manifest.audio import decode_mono, read_audio
from kimi_audio_ft.manifest.folders import RECORDINGS, recordings_in
from kimi_audio_ft.store.cache import remember
from kimi_audio_ft.store.digests import file_digest, file_digests
from kimi_audio_ft.store.signature import digest_of

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

LEAST_SWING = 10 / 2**15
"""Between the lowest and the highest sample: less is silence or a constant, as for recordings of speech."""
# Of the energy from the direct sound on, the part in the second half: small where a response dies away.
_MOST_AT_THE_END = 0.4
# Raise it when a check becomes stricter.
_CHECKS_VERSION = 1
# Samples at 16 kHz that stay in memory: 256 MB.
_MOST_KEPT = 2**26
_KEPT: dict[str, Tensor] = {}
_KEEPING = Lock()


@dataclass(frozen=True)
class Sounds:
    """Recordings of a folder in the order of their contents.

    digests: sha256 of every file, sorted. paths: in the same order; they change nothing.
    """

    digests: tuple[str, ...]
    paths: tuple[Path, ...] = field(compare=False)

    def __len__(self) -> int:
        return len(self.digests)

    @cached_property
    def identity(self) -> str:
        return digest_of(self.digests)

    def waveform(self, number: int) -> Tensor:
        """``[num_samples]`` at 16 kHz; the last ones stay in memory. ChangedError: the file is another one now."""
        path, digest = self.paths[number], self.digests[number]
        kept = _KEPT.get(digest)
        if kept is not None:
            return kept
        read = read_audio(path)
        if file_digest(path) != digest:
            raise ChangedError(path, "while it was being read")
        with _KEEPING:
            if sum(map(len, _KEPT.values())) + len(read) > _MOST_KEPT:
                _KEPT.clear()
            _KEPT[digest] = read
        return read


def noises(augment: AugmentConfig) -> Sounds | None:
    """Noises that training audio gets, checked; None for no noise. Errors as of ``_sounds``."""
    return _sounds("noise_folder", augment_form(augment).noise_folder, _check_noise)


def rooms(augment: AugmentConfig) -> Sounds | None:
    """Impulse responses of rooms, checked; None for no rooms. Errors as of ``_sounds``."""
    return _sounds("room_folder", augment_form(augment).room_folder, _check_room)


def _sounds(name: str, folder: str | None, check: Callable[[Path], None]) -> Sounds | None:
    """Recordings of a folder and those inside it, each checked once as long as its content stays.

    Raises:
        ConfigError: there are none.
        DataError: one is unreadable, silent, or not of its kind.
    """
    if folder is None:
        return None
    option, files = f"data.augment.{name}", recordings_in(Path(folder))
    if not files:
        rule = f"holds no recordings (files whose names end in {', '.join(RECORDINGS)})"
        raise ConfigError(option, folder, rule, "Name the folder that they are in")
    pairs = sorted(zip(file_digests(files), files, strict=True))
    sounds = Sounds(tuple(digest for digest, _ in pairs), tuple(path for _, path in pairs))

    def check_all() -> int:
        log.info("%s: checking %d recordings in %s", option, len(sounds), folder)
        for path in sounds.paths:
            check(path)
        return len(sounds)

    remember("sounds", [_CHECKS_VERSION, name, sounds.identity], check_all)
    return sounds


def _check_noise(path: Path) -> None:
    samples, _ = decode_mono(path)
    if np.ptp(samples) < LEAST_SWING:
        raise DataError(path, "this noise is silent (all samples are nearly equal)", "Take it out of the folder")


def _check_room(path: Path) -> None:
    samples, _ = decode_mono(path)
    energy = np.square(samples[int(np.abs(samples).argmax()) :], dtype=np.float64)
    if not energy.any():
        raise DataError(path, "this impulse response is silent (all samples are 0)", "Take it out of the folder")
    at_the_end = energy[-(len(energy) // 2) :].sum() / energy.sum() if len(energy) > 1 else 0.0
    if at_the_end > _MOST_AT_THE_END:
        problem = f"does not die away as an impulse response does: {at_the_end:.0%} of its energy is in its second half"
        raise DataError(path, problem, "Noises belong into data.augment.noise_folder")
