"""The signal-to-noise ratio of a recording, estimated from itself: how loud it is against its steady background.

In every band of the spectrum the quietest tenth of a recording's moments is taken for noise: people pause, and even
while they speak most bands are empty for a moment (minimum statistics; Martin 2001, IEEE Trans. Speech Audio Process.
9:504). The rest of the power is signal. So steady noise (fans, hiss, hum, traffic far off) is measured; what comes and
goes, such as other voices, music or clatter, is counted as signal, and so is an echo.

In less than two seconds there may be no such moment: the quietest tenth of a word is speech, and would pass for noise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# dB: beyond these nothing is heard of the noise, or of the signal.
LOWEST, HIGHEST = -10.0, 60.0
_FRAME_SECONDS, _LOWEST_HZ, _BAND_HZ, _QUIET = 0.032, 100.0, 400.0, 0.1
_LEAST_FRAMES = 123  # two seconds
# For steady noise alone, the 10 % quantile of a band's frame powers is this part of their mean.
_OF_NOISE = 0.56
# Frames below it (of full scale, squared) are digital silence.
_SILENCE = 1e-10
_AT_ONCE = 4096


def signal_to_noise(samples: NDArray[np.float32], sample_rate: int) -> float | None:
    """In dB, between ``LOWEST`` and ``HIGHEST``; None for less than two seconds of sound.

    Args:
        samples: ``[num_samples]``, full scale being 1.
    """
    power = _band_powers(samples, sample_rate)
    sound = np.flatnonzero(power.sum(axis=1) > _SILENCE)
    if not len(sound) or sound[-1] - sound[0] + 1 < _LEAST_FRAMES:
        return None
    # Digital silence before and after tells nothing. Between words, where a gate or a synthesiser has put it, it is the
    # background: without it, only speech would be left to take for noise.
    heard = power[sound[0] : sound[-1] + 1]
    noise = float(np.minimum(np.quantile(heard, _QUIET, axis=0) / _OF_NOISE, heard.mean(axis=0)).sum())
    signal = float(heard.mean(axis=0).sum()) - noise
    if noise <= 0:
        return HIGHEST
    return min(max(10 * math.log10(max(signal / noise, 1e-9)), LOWEST), HIGHEST)


def _band_powers(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float64]:
    """Mean power of each band in half-overlapping frames, ``[frames, bands]``."""
    size = max(16, round(_FRAME_SECONDS * sample_rate))
    if len(samples) < size:
        samples = np.pad(samples, (0, size - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 2]
    window = np.hanning(size).astype(np.float32)
    # Below the lowest there are offsets and rumble, which nobody hears and no microphone of speech is built for.
    edges = np.arange(round(_LOWEST_HZ * _FRAME_SECONDS), size // 2 + 1, round(_BAND_HZ * _FRAME_SECONDS))
    found = []
    for first in range(0, len(frames), _AT_ONCE):
        spectrum = np.fft.rfft(frames[first : first + _AT_ONCE] * window)
        squares = spectrum.real**2 + spectrum.imag**2
        found.append(np.add.reduceat(squares, edges, axis=1))
    return np.concatenate(found).astype(np.float64) * (2 / (size * float((window**2).sum())))
