"""Reading recordings: formats, rates, channels, lengths, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.manifest.audio import (
    AudioError,
    audio_info,
    content_digest,
    decode,
    decode_mono,
    lengths_16k,
    open_recording,
    read_audio,
)
from kimi_audio_ft.manifest.part import Part


def tone(rate: int, seconds: float = 0.5, frequency: float = 440.0) -> np.ndarray:
    """A sine at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def test_16_khz_mono_is_read_as_it_is(tmp_path: Path) -> None:
    samples = tone(16000)
    waveform = read_audio(write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT"))
    assert waveform.dtype == torch.float32 and waveform.shape == (8000,)
    assert torch.equal(waveform, torch.from_numpy(samples))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_are_resampled_to_the_same_sound(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT")
    waveform = read_audio(path)
    inner = slice(400, 7600)  # the filter rings at both ends
    np.testing.assert_allclose(waveform.numpy()[inner], tone(16000)[inner], atol=2e-3)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_the_header_gives_the_exact_length(tmp_path: Path, extension: str, rate: int) -> None:
    for length in (rate // 4, rate // 4 + 1, rate // 4 + 7):
        path = write(tmp_path / f"{length}.{extension}", tone(rate)[:length], rate)
        info = audio_info(path)
        assert info.num_samples_16k == len(read_audio(path)) == math.ceil(Fraction(16000 * length, rate))
        assert (info.seconds, info.sample_rate, info.channels) == (length / rate, rate, 1)


def test_the_length_is_exact_where_torchaudio_loses_a_sample(tmp_path: Path) -> None:
    """It computes 320119 + 1/441 in float32, where the fraction is lost before it can be rounded up."""
    length = 441 * 2000 + 328  # 160 * 328 = 119 * 441 + 1
    exact = math.ceil(Fraction(16000 * length, 44100))
    assert len(torchaudio.functional.resample(torch.zeros(length), 44100, 16000)) == exact - 1
    path = write(tmp_path / "a.wav", np.zeros(length, np.float32), 44100)
    assert len(read_audio(path)) == audio_info(path).num_samples_16k == exact


def test_resampling_is_torchaudio_s(tmp_path: Path) -> None:
    samples = tone(44100)
    path = write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    expected = torchaudio.functional.resample(torch.from_numpy(samples), 44100, 16000)
    torch.testing.assert_close(read_audio(path), expected, atol=1e-6, rtol=0)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(16000), tone(16000, frequency=300.0)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path).numpy(), (left + right) / 2, atol=1e-7)
    assert audio_info(path).channels == 2


@pytest.mark.parametrize("extension", ["wav", "flac", "aiff", "mp3", "ogg"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_part_is_the_same_samples_of_the_whole(tmp_path: Path, extension: str, rate: int) -> None:
    """To the bit, but for MP3 and Vorbis, whose decoders add in another order behind a seek."""
    noise = np.random.default_rng(0).normal(0, 0.1, (3 * rate, 2))
    path = write(tmp_path / f"a.{extension}", noise, rate)
    whole = decode(open_recording(path)).samples
    for part in (Part(0, 0.5), Part(1.0, 1.001, 1), Part(0.3333, 2.9999), Part(2.5, 3.004, 0), Part(channel=1)):
        first, stop = part.samples(len(whole), rate)
        wanted = whole[first:stop] if part.channel is None else whole[first:stop, part.channel : part.channel + 1]
        heard = decode(open_recording(path, part))
        np.testing.assert_allclose(heard.samples, wanted, rtol=0, atol=1e-6 if extension in ("mp3", "ogg") else 0)
        assert np.array_equal(heard.samples, decode(open_recording(path, part)).samples)
        assert audio_info(path, part).num_samples_16k == len(read_audio(path, part))
    assert lengths_16k([path, path], [Part(), Part(1, 2)]).tolist() == [48000, 16000]


def test_a_part_is_read_without_the_rest(tmp_path: Path) -> None:
    """NaN elsewhere are not met; in the part they are, with its place in the message."""
    samples = np.stack([tone(16000, 2.0), tone(16000, 2.0)], axis=1)
    samples[20000, 1] = np.nan
    path = write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert len(read_audio(path, Part(0, 1.25))) == 20000 and len(read_audio(path, Part(0, 2, 0))) == 32000
    with pytest.raises(
        AudioError, match=r"a\.wav \(1 s to 1\.5 s\): 1 of 8000 samples are NaN .* first at sample 4000"
    ):
        read_audio(path, Part(1, 1.5))
    with pytest.raises(AudioError, match=r"a\.wav \(channel 2\): the recording has 2 channels") as caught:
        audio_info(path, Part(channel=2))
    assert caught.value.reason == "no_channel"


def test_a_file_that_was_replaced_is_opened_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(16000), 16000)
    assert len(read_audio(path, Part(0.25, 0.5))) == 4000
    write(path, tone(8000, 2.0), 8000)
    assert audio_info(path, Part(0.25, 0.5)).sample_rate == 8000


def test_one_channel_of_antiphase_is_heard(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.stack([tone(16000), -tone(16000)], axis=1), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"cancel each other.*channel_column"):
        read_audio(path)
    assert torch.equal(read_audio(path, Part(channel=1)), torch.from_numpy(-tone(16000)))


def test_peaks_above_full_scale_are_clipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 3 * tone(16000), 16000, subtype="FLOAT")
    waveform = read_audio(path)
    assert waveform.abs().max() == 1.0
    assert torch.equal(waveform, torch.from_numpy(3 * tone(16000)).clamp(-1, 1))


def test_integer_samples_stored_as_floats_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 32768 * tone(16000), 16000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: samples reach 16384; .* \[-1, 1\]\. Divide") as caught:
        read_audio(path)
    assert caught.value.reason == "samples_out_of_range"  # type: ignore[attr-defined]


def refused(path: Path, reason: str, message: str) -> None:
    """Both readers refuse the file, by the same reason."""
    for read in (audio_info, read_audio):
        with pytest.raises(AudioError, match=message) as caught:
            read(path)
        assert caught.value.reason == reason
        assert str(path) in str(caught.value)


def test_what_is_no_recording(tmp_path: Path) -> None:
    refused(tmp_path / "no.wav", "missing_audio", "no such recording")
    refused(tmp_path, "missing_audio", "not a file")
    refused(tmp_path / ("x" * 300 + ".wav"), "missing_audio", "File name too long")
    (tmp_path / "a.wav").write_text("这不是录音")
    refused(tmp_path / "a.wav", "unreadable_audio", "not a readable recording.*ffmpeg")
    refused(write(tmp_path / "a.wav", tone(44101), 44101), "unreadable_audio", "44101 Hz .*ffmpeg")
    refused(write(tmp_path / "a.wav", np.zeros(0, np.float32), 16000), "empty_audio", "0 samples; it needs at least 1")
    (tmp_path / "b.wav").touch()
    refused(tmp_path / "b.wav", "empty_audio", "0 bytes")


def test_nan_and_infinite_samples(tmp_path: Path) -> None:
    samples = tone(16000)
    samples[[5, 9]] = np.nan, np.inf
    path = write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="2 of 8000 samples are NaN or infinite, the first at sample 5") as caught:
        read_audio(path)
    assert caught.value.reason == "nan_samples"


@pytest.mark.parametrize("extension", ["flac", "mp3"])
def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path, extension: str) -> None:
    path = write(tmp_path / f"a.{extension}", tone(16000, 3.0), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"the file is cut|decoding failed") as caught:
        read_audio(path)
    assert caught.value.reason == "unreadable_audio"


def test_digests_tell_sounds_apart(tmp_path: Path) -> None:
    integers = (tone(16000) * 32767).astype(np.int16)
    wav, flac = write(tmp_path / "a.wav", integers, 16000), write(tmp_path / "a.flac", integers, 16000)
    copy = tmp_path / "copy.wav"
    copy.write_bytes(wav.read_bytes())
    stereo = write(tmp_path / "stereo.wav", np.stack([integers, integers], axis=1), 16000)
    other = write(tmp_path / "other.wav", np.roll(integers, 1), 16000)
    slower = write(tmp_path / "slower.wav", integers, 8000)
    content = {path.name: content_digest(*decode_mono(path)) for path in (wav, flac, copy, stereo, other, slower)}
    assert content["a.wav"] == content["a.flac"] == content["copy.wav"] == content["stereo.wav"]
    assert len({content["a.wav"], content["other.wav"], content["slower.wav"]}) == 3
