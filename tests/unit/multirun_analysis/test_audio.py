"""Recordings as data URIs, within a budget."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from multirun_analysis.report.utterances import LONGEST_SECONDS, Clip, clips


def recording(path: Path, seconds: float = 2.0, rate: int = 16_000, channels: int = 1) -> str:
    """A hum under noise, of which a codec cannot make nothing."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.05, time.size)
    samples = 0.3 * np.sin(2 * np.pi * 220 * time) + noise
    soundfile.write(path, np.repeat(samples[:, None], channels, axis=1), rate)
    return str(path)


def decoded(clip: Clip) -> tuple[np.ndarray, int]:
    assert clip.uri is not None
    kind, _, data = clip.uri.partition(";base64,")
    assert kind == "data:audio/mpeg"
    return soundfile.read(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_a_recording_is_kept_audible_and_small(tmp_path: Path, rate: int, channels: int) -> None:
    path = recording(tmp_path / "a.wav", 2.0, rate, channels)
    (clip,) = clips([path])
    samples, heard = decoded(clip)
    assert heard == 16_000 and samples.ndim == 1
    assert abs(len(samples) / heard - 2.0) < 0.2
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(np.argmax(spectrum) * heard / len(samples) - 220) < 3
    assert len(clip.uri or "") < 2.0 * 7_000  # 5 kB a second and its base64


def test_what_cannot_be_played_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    long = recording(tmp_path / "long.wav", LONGEST_SECONDS + 1, 8_000)
    found = clips([None, str(tmp_path / "gone.wav"), str(tmp_path / "broken.wav"), long])
    assert [clip.why_not for clip in found] == [None, "audio.missing", "audio.unreadable", "audio.too_long"]
    assert all(clip.uri is None for clip in found)


def test_the_budget_ends_with_the_clip_that_no_longer_fits(tmp_path: Path) -> None:
    paths = [recording(tmp_path / f"{number}.wav", seconds) for number, seconds in enumerate((1.0, 3.0, 1.0))]
    lengths = [len(clip.uri or "") for clip in clips(paths)]
    found = clips(paths, budget=lengths[0] + lengths[1] - 1)
    assert [clip.why_not for clip in found] == [None, "audio.budget", None]
