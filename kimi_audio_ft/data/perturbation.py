"""Ways to change a recording before it is encoded; each changed recording has codes and features of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kimi_audio_ft.data.audio import SAMPLE_RATE, num_samples_16k


@dataclass(frozen=True)
class Perturbation:
    """One way to change a recording: played faster by a factor, and louder by some dB."""

    speed: float = 1.0
    gain_db: float = 0.0

    @property
    def _rate(self) -> int:
        """Rate in Hz that the samples are taken to have, so that they last as long as they shall."""
        # As functional.speed, which cuts 1.015 * 16000 to 16239 Hz and then needs a gigabyte of filters.
        return round(self.speed * SAMPLE_RATE)

    def key(self, digest: str) -> str:
        """Key of the changed recording in the feature store."""
        return digest if self == UNCHANGED else f"{digest}@{self.speed:g}x{self.gain_db:+g}dB"

    def num_samples(self, num_samples: int) -> int:
        """Length of the changed waveform."""
        return num_samples_16k(num_samples, self._rate)

    def apply(self, waveform: Tensor) -> Tensor:
        """The changed waveform, clipped to [-1, 1]."""
        from torchaudio import functional

        if self.speed != 1.0:
            waveform = functional.resample(waveform, self._rate, SAMPLE_RATE)
        if self.gain_db:
            waveform = functional.gain(waveform, self.gain_db).clamp(-1.0, 1.0)
        return waveform


UNCHANGED = Perturbation()
