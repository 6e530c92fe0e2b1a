"""Folders of noises and rooms: what counts as one, its identity, and what is refused before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.config.train import AugmentConfig, TrainConfig
from kimi_audio_ft.errors import ChangedError, ConfigError, DataError
from kimi_audio_ft.features.sounds import noises, rooms
from kimi_audio_ft.trial import Trial
from tests.unit.conftest import rewrite


def hiss(samples: int = 8000, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, samples)


def decaying(samples: int = 4000) -> np.ndarray:
    return hiss(samples) * np.exp(-np.arange(samples) / 400)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two noises beside what collections have too."""
    folder = tmp_path / "noise"
    (folder / "deeper").mkdir(parents=True)
    soundfile.write(folder / "a.wav", hiss(seed=1), 16000)
    soundfile.write(folder / "deeper" / "b.FLAC", hiss(seed=2), 8000, format="FLAC")
    (folder / "LICENSE").write_text("public domain")
    (folder / "._a.wav").write_bytes(b"a Mac's")
    return folder


def test_recordings_are_found_at_every_depth(folder: Path) -> None:
    sounds = noises(AugmentConfig(noise_folder=str(folder)))
    assert sounds is not None and {path.name for path in sounds.paths} == {"a.wav", "b.FLAC"}
    assert list(sounds.digests) == sorted(sounds.digests)
    assert rooms(AugmentConfig(noise_folder=str(folder))) is None


REFUSED: dict[str, tuple[str, Any, str]] = {
    "silent noise": ("noise", np.zeros(4000), r"c\.wav: this noise is silent .*Take it out"),
    "constant noise": ("noise", np.full(4000, 0.3), r"c\.wav: this noise is silent"),
    "unreadable noise": ("noise", b"RIFF nonsense", r"c\.wav: .*not a readable|c\.wav: .*wav"),
    "no bytes": ("noise", b"", r"c\.wav: the file has 0 bytes"),
    "silent room": ("room", np.zeros(4000), r"c\.wav: this impulse response is silent"),
    "noise as a room": ("room", hiss(), r"c\.wav: does not die away .*data\.augment\.noise_folder"),
    "unreadable room": ("room", b"nonsense", r"c\.wav: .*not a readable"),
}


@pytest.mark.parametrize(("kind", "content", "problem"), REFUSED.values(), ids=REFUSED)
def test_refused_before_training(
    trial_config: Callable[..., TrainConfig], tmp_path: Path, kind: str, content: Any, problem: str
) -> None:
    """While the sweep is planned; a second look at the same content refuses it again."""
    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "a.wav", decaying(), 16000)
    if isinstance(content, bytes):
        (tmp_path / "sounds" / "c.wav").write_bytes(content)
    else:
        soundfile.write(tmp_path / "sounds" / "c.wav", content, 16000)
    config = trial_config(data={"augment": AugmentConfig(**{f"{kind}_folder": str(tmp_path / "sounds")})})
    for _ in range(2):
        with pytest.raises(DataError, match=problem):
            _ = Trial(config).training_signature


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(ConfigError, match=r"data\.augment\.noise_folder=.*holds no recordings .*\.wav, \.flac"):
        noises(AugmentConfig(noise_folder=str(tmp_path)))


def test_a_missing_folder(tmp_path: Path) -> None:
    for kind in ("noise", "room"):
        with pytest.raises(ConfigError, match=rf"data\.augment\.{kind}_folder=.*there is no such folder"):
            AugmentConfig(**{f"{kind}_folder": str(tmp_path / "nowhere")})


def test_a_file_that_was_replaced_since_it_was_planned_is_refused(folder: Path) -> None:
    sounds = noises(AugmentConfig(noise_folder=str(folder)))
    assert sounds is not None
    number = sounds.paths.index(folder / "a.wav")
    rewrite(folder / "a.wav", (folder / "a.wav").read_bytes()[:-2] + b"\x01\x02")
    with pytest.raises(ChangedError, match=r"a\.wav: changed while it was being read"):
        sounds.waveform(number)


def test_a_folder_that_is_not_used_is_told(
    trial_config: Callable[..., TrainConfig], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def name(**augment: Any) -> str:
        return Trial(trial_config(data={"augment": AugmentConfig(**augment)})).training_signature

    assert name(noise_folder=str(folder), noise_probability=0.0) == name()
    assert "is not used where data.augment.noise_probability is 0" in caplog.text
