"""Perturbed recordings: speed, rooms, noise and volume, what is drawn, and the names of the forms."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from kimi_audio_ft.config.train import AugmentConfig
from kimi_audio_ft.features.perturbation import UNCHANGED, Noise, Perturbation, Perturbations, Room
from kimi_audio_ft.features.sounds import Sounds, noises, rooms

Folder = Callable[..., str]
DIGESTS = [f"{number:064x}" for number in range(40)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Writes recordings into a folder, in the order of their names; returns it."""

    def write(*recordings: np.ndarray, name: str = "sounds", rate: int = 16000) -> str:
        (tmp_path / name).mkdir()
        for number, samples in enumerate(recordings):
            soundfile.write(tmp_path / name / f"{number}.wav", samples, rate, subtype="FLOAT")
        return str(tmp_path / name)

    return write


def speech(seconds: float = 1.0, level: float = 0.1, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, level, round(16000 * seconds)).astype(np.float32))


def hiss(samples: int, level: float = 0.05, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, samples).astype(np.float32)


def impulse(samples: int, *taps: tuple[int, float]) -> np.ndarray:
    response = np.zeros(samples, np.float32)
    for place, height in taps:
        response[place] = height
    return response


def noisy(folder: str, low: float, high: float, version: int = 0) -> Noise:
    sounds = noises(AugmentConfig(noise_folder=folder))
    assert sounds is not None
    return Noise(sounds, (low, high), version)


def room(folder: str, version: int = 0) -> Room:
    sounds = rooms(AugmentConfig(room_folder=folder))
    assert sounds is not None
    return Room(sounds, version)


def measured_snr(speech: Tensor, mixed: Tensor) -> float:
    """In dB, whatever the volume of the mixture, as the noise does not correlate with the speech."""
    speech, mixed = speech.double(), mixed.double()
    speech = speech * (speech @ mixed / (speech @ speech))
    return float(20 * torch.log10(speech.norm() / (mixed - speech).norm()))


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.015, 2.0])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    """1.015 * 16000 is a hair under 16240 in binary: cut to 16239 Hz, torchaudio would build a gigabyte of filters."""
    waveform = torch.sin(2 * torch.pi * 300 * torch.arange(16000) / 16000)
    faster = Perturbation(factor).apply(waveform, "")
    ratio = Fraction(str(factor))
    assert torch.equal(faster, resample(waveform, ratio.numerator, ratio.denominator))
    assert len(faster) == math.ceil(round(16000 / factor, 6))
    for samples in (1, 2, 159, 16000, 16001, 99999):
        assert Perturbation(factor).num_samples(samples) == len(Perturbation(factor).apply(torch.zeros(samples), ""))
    expected = torch.sin(2 * torch.pi * 300 * factor * torch.arange(len(faster)) / 16000)
    torch.testing.assert_close(faster[500:-500], expected[500:-500], atol=5e-3, rtol=0)


def test_gain_scales_and_clips() -> None:
    waveform = torch.tensor([0.1, -0.4, 0.6, -0.9])
    torch.testing.assert_close(Perturbation(1.0, -6.0).apply(waveform, ""), waveform * 10 ** (-6 / 20))
    louder = Perturbation(1.0, 6.0).apply(waveform, "")
    torch.testing.assert_close(louder, torch.tensor([0.1 * 10**0.3, -0.4 * 10**0.3, 1.0, -1.0]))
    assert UNCHANGED.apply(waveform, "") is waveform and UNCHANGED.num_samples(12345) == 12345


# Noise.


@pytest.mark.parametrize("level", [0.01, 0.1, 0.9])
@pytest.mark.parametrize("samples", [700, 16000, 90001])
def test_the_drawn_ratio_is_met(folder: Folder, level: float, samples: int) -> None:
    """Of noises that are repeated, as long as the speech, or cut; also where the sum would have to be clipped."""
    noise, clean = noisy(folder(hiss(samples)), 0.0, 25.0), speech(level=level)
    drawn = []
    for digest in DIGESTS:
        mixed = noise.apply(clean, digest)
        number, snr, _ = noise.drawn(digest)
        assert number == 0 and len(mixed) == len(clean) and mixed.abs().max() <= 1
        assert measured_snr(clean, mixed) == pytest.approx(snr, abs=0.1)
        drawn.append(snr)
    assert min(drawn) < 3 and max(drawn) > 22 and len(set(drawn)) > 30


def test_a_short_noise_is_repeated_and_a_long_one_cut_at_a_drawn_place(folder: Folder) -> None:
    clean, short, long = torch.zeros(1000), hiss(300), np.linspace(-0.5, 0.5, 50000, dtype=np.float32)
    clean[0] = 0.5
    added = noisy(folder(short), 0.0, 0.0).apply(clean, "a") - clean
    torch.testing.assert_close(added[:300], added[300:600], atol=1e-6, rtol=0)
    torch.testing.assert_close(added[:100], added[900:], atol=1e-6, rtol=0)
    noise = noisy(folder(long, name="long"), 0.0, 0.0)
    places = {round(noise.drawn(digest)[2], 1) for digest in DIGESTS}
    assert len(places) == 11, "from its beginning to its end"


def test_a_silent_place_of_a_noise_is_not_taken(folder: Folder) -> None:
    """A bang in an hour of silence: everywhere else the ratio could not be met."""
    noise = noisy(folder(np.concatenate([np.zeros(90000, np.float32), hiss(2000), np.zeros(90000, np.float32)])), 3, 3)
    clean = speech(0.5)
    for digest in DIGESTS:
        assert measured_snr(clean, noise.apply(clean, digest)) == pytest.approx(3, abs=0.5)


def test_the_offset_of_a_noise_is_no_noise(folder: Folder) -> None:
    clean = speech()
    noise = noisy(folder(0.5 + hiss(40000)), 10.0, 10.0)
    mixed = noise.apply(clean, "a")
    assert abs(float((mixed - clean).mean())) < 1e-4 and measured_snr(clean, mixed) == pytest.approx(10, abs=0.1)


def test_silent_speech_stays_silent(folder: Folder) -> None:
    assert not noisy(folder(hiss(9000)), 0.0, 0.0).apply(torch.zeros(4000), "a").any()
    assert not room(folder(impulse(9, (3, 1.0)), name="rooms")).apply(torch.zeros(4000), "a").any()


def test_channels_are_mixed_and_rates_converted(folder: Folder) -> None:
    both = np.stack([hiss(22050), hiss(22050, seed=3)], axis=1)
    sounds = noises(AugmentConfig(noise_folder=folder(both, rate=44100)))
    assert sounds is not None and len(sounds.waveform(0)) == 8000


# Rooms.


@pytest.mark.parametrize("taps", [[(0, 1.0)], [(500, 0.2)], [(7, -0.9)]])
def test_an_impulse_changes_nothing(folder: Folder, taps: list[tuple[int, float]]) -> None:
    """Whatever its delay, height and sign."""
    clean = speech()
    heard = room(folder(impulse(800, *taps))).apply(clean, "a")
    torch.testing.assert_close(heard, clean, atol=1e-6, rtol=0)


def test_an_echo_follows_the_direct_sound_and_the_level_stays(folder: Folder) -> None:
    clean = torch.zeros(16000)
    clean[4000] = 0.5
    heard = room(folder(impulse(3000, (100, 0.8), (1700, 0.4)))).apply(clean, "a")
    assert heard.abs().topk(2).indices.tolist() == [4000, 5600]
    assert float(heard.norm()) == pytest.approx(float(clean.norm()), rel=1e-5)
    assert float(heard[4000] / heard[5600]) == pytest.approx(2.0, rel=1e-4)
    loud = room(folder(impulse(3000, (0, 0.8), (1600, 0.4)), name="loud")).apply(speech(level=0.9).clamp(-1, 1), "a")
    assert loud.abs().max() <= 1


# What is drawn, and its name.


def test_forms_have_names_of_their_own(folder: Folder) -> None:
    noise, echo = folder(hiss(9000), hiss(9000, seed=5)), folder(impulse(9, (0, 1.0)), name="rooms")
    both = Perturbations.of(AugmentConfig(noise_folder=noise, room_folder=echo, speeds=[0.9, 1.0]))
    assert len(both.all) == 2 * 7 and UNCHANGED in both.all
    keys = [form.key("d") for form in both.all]
    assert len(set(keys)) >= 2 * 6, "both versions of a recording may be in one room"
    assert keys[0] == "d@0.9x+0dB" and sum(key == "d" for key in keys) == 1
    assert {key.partition("dB")[2].count(":") for key in keys} <= {0, 1, 3, 4}
    always = AugmentConfig(noise_folder=noise, noise_probability=1.0, versions=3)
    assert len(Perturbations.of(always).all) == 3 and UNCHANGED not in Perturbations.of(always).all
    never = AugmentConfig(noise_folder=noise, noise_probability=0.0)
    assert list(Perturbations.of(never).all) == [UNCHANGED]


def test_only_what_can_be_drawn_is_encoded_and_all_of_it_is_drawn(folder: Folder) -> None:
    noise, echo = folder(hiss(9000)), folder(impulse(9, (0, 1.0)), name="rooms")
    settings = AugmentConfig(noise_folder=noise, room_folder=echo, noise_probability=0.3, room_probability=0.8)
    forms = Perturbations.of(settings)
    rng = random.Random(1)
    drawn = [forms.draw(rng) for _ in range(4000)]
    assert set(drawn) == set(forms.all)
    assert sum(form.noise is not None for form in drawn) / 4000 == pytest.approx(0.3, abs=0.03)
    assert sum(form.room is not None for form in drawn) / 4000 == pytest.approx(0.8, abs=0.03)


def test_names_and_draws_depend_on_contents_not_on_paths(folder: Folder) -> None:
    here, there = folder(*(hiss(9000, seed=seed) for seed in range(8))), folder(name="elsewhere")
    for number in range(8):  # copied, since a WAV file of floats holds the second in which it was written
        shutil.copyfile(f"{here}/{number}.wav", f"{there}/{7 - number}.wav")
    one, other = noisy(here, 5.0, 20.0), noisy(there, 5.0, 20.0)
    assert [one.key(digest) for digest in DIGESTS] == [other.key(digest) for digest in DIGESTS]
    assert one.sounds.identity == other.sounds.identity
    clean = speech()
    assert torch.equal(one.apply(clean, DIGESTS[3]), other.apply(clean, DIGESTS[3]))
    assert len({one.drawn(digest)[0] for digest in DIGESTS}) == 8
    assert one.key(DIGESTS[0]) != noisy(here, 5.0, 20.0, version=1).key(DIGESTS[0]) != one.key(DIGESTS[1])


def test_without_folders_the_draws_are_what_they_were() -> None:
    settings = AugmentConfig(speeds=[0.9, 1.0, 1.1], gains_db=[-3.0, 0.0])
    ours, before = random.Random("1 2 id"), random.Random("1 2 id")
    expected = Perturbation(before.choice(settings.speeds), before.choice(settings.gains_db))
    assert Perturbations.of(settings).draw(ours) == expected and ours.getstate() == before.getstate()


def test_room_and_noise_come_before_the_volume(folder: Folder) -> None:
    noise, echo = noisy(folder(hiss(30000)), 10.0, 10.0), room(folder(impulse(900, (0, 1.0), (300, 0.5)), name="rooms"))
    clean = speech()
    form = Perturbation(1.0, -6.0, noise, echo)
    expected = noise.apply(echo.apply(clean, "a"), "a") * 10 ** (-6 / 20)
    torch.testing.assert_close(form.apply(clean, "a"), expected)
    assert isinstance(echo.sounds, Sounds) and form.num_samples(16000) == 16000
