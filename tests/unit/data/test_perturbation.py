"""Changed recordings: speed, volume, length and keys."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torchaudio.functional import resample

from kimi_audio_ft.manifest.audio import UNCHANGED, Perturbation


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.015, 2.0])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    """1.015 * 16000 is a hair under 16240 in binary: cut to 16239 Hz, torchaudio would build a gigabyte of filters."""
    waveform = torch.sin(2 * torch.pi * 300 * torch.arange(16000) / 16000)
    faster = Perturbation(factor).apply(waveform)
    ratio = Fraction(str(factor))
    assert torch.equal(faster, resample(waveform, ratio.numerator, ratio.denominator))
    assert len(faster) == math.ceil(round(16000 / factor, 6))
    expected = torch.sin(2 * torch.pi * 300 * factor * torch.arange(len(faster)) / 16000)
    torch.testing.assert_close(faster[500:-500], expected[500:-500], atol=5e-3, rtol=0)


def test_gain_scales_and_clips() -> None:
    waveform = torch.tensor([0.1, -0.4, 0.6, -0.9])
    torch.testing.assert_close(Perturbation(1.0, -6.0).apply(waveform), waveform * 10 ** (-6 / 20))
    louder = Perturbation(1.0, 6.0).apply(waveform)
    torch.testing.assert_close(louder, torch.tensor([0.1 * 10**0.3, -0.4 * 10**0.3, 1.0, -1.0]))
    assert UNCHANGED.apply(waveform) is waveform


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.015, 1.1, 2.0])
def test_the_length_is_known_beforehand(factor: float) -> None:
    for samples in (1, 2, 159, 16000, 16001, 99999):
        changed = Perturbation(factor)
        assert changed.num_samples(samples) == len(changed.apply(torch.zeros(samples)))
    assert UNCHANGED.num_samples(12345) == 12345
