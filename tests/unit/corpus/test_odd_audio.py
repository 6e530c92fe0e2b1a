"""Odd recordings with the verdict of prepare and tokenize beside each: its length in samples, or the reason."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.corpus.rows import hear
from kimi_audio_ft.manifest.audio import AudioError, audio_info, decode_mono
from kimi_audio_ft.manifest.part import WHOLE, Part

pytestmark = pytest.mark.slow

RATE, LENGTH = 8000, 4000
CUT, DAMAGED, SILENT = "unreadable_audio", "unreadable_audio", "silent_audio"


def sound(length: int = LENGTH, seed: int = 0) -> np.ndarray:
    """Noise with a melody in it: no codec makes it silent."""
    time = np.arange(length) / RATE
    noise = np.random.default_rng(seed).uniform(-0.2, 0.2, length)
    return noise + 0.3 * np.sin(2 * np.pi * 300 * time)


@cache
def made(kind: str, subtype: str | None = None, length: int = LENGTH, seed: int = 0, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(length, seed), rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def floats(samples: np.ndarray, subtype: str = "FLOAT") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype=subtype)
    return buffer.getvalue()


def put(data: bytes, position: int, what: bytes) -> bytes:
    return data[:position] + what + data[position + len(what) :]


def sizes(riff: int, samples: int, data: bytes | None = None) -> bytes:
    """A wav (a header of 44 bytes) that announces these numbers of bytes."""
    data = data or made("WAV")
    return put(put(data, 4, riff.to_bytes(4, "little")), 40, samples.to_bytes(4, "little"))


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def open_flac(data: bytes) -> bytes:
    """As an encoder that writes into a pipe leaves it: without the number of samples."""
    return put(put(data, 21, bytes([data[21] & 0xF0])), 22, bytes(4))


def mp3(seconds: float = 0.5, seed: int = 0) -> bytes:
    return made("MP3", None, round(seconds * RATE), seed)


def frames_of(data: bytes) -> list[bytes]:
    """Frames of an MP3 at 8 kHz, which is MPEG-2.5 layer III."""
    kbps = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    frames, position = [], 0
    while position < len(data):
        size = 72000 * kbps[data[position + 2] >> 4] // RATE + (data[position + 2] >> 1 & 1)
        frames.append(data[position : position + size])
        position += size
    return frames


@cache
def without_xing(data: bytes) -> bytes:
    return b"".join(frames_of(data)[1:])


def num_samples(data: bytes) -> int:
    """Of MP3 frames without a Xing header: all but the decoder's own delay."""
    return 576 * len(frames_of(data)) - 529


def id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes([0, 0, size >> 7, size & 0x7F]) + bytes(size)


def ogg_pages(data: bytes) -> list[bytes]:
    starts = [0]
    while (found := data.find(b"OggS\0", starts[-1] + 1)) >= 0:
        starts.append(found)
    return [data[begin:end] for begin, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def without_page(data: bytes, number: int) -> bytes:
    pages = ogg_pages(data)
    return b"".join(pages[:number] + pages[number + 1 :])


# Containers that say how long they are; three others are as long as their file.
WITH_LENGTH = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "NIST", "VOC", "SVX")
WITH_LENGTH += ("AVR", "MAT4", "MAT5", "MPC2K")
VORBIS, OPUS = (lambda: made("OGG", "VORBIS", 40000)), (lambda: made("OGG", "OPUS", 40000))
NOISE = sound()
# name -> (bytes of the file, its verdict)
CASES: dict[str, tuple[Callable[[], bytes], int | str]] = {
    # every container as libsndfile writes it, whole and cut
    **{
        f"whole.{kind.lower()}": ((lambda kind=kind: made(kind)), LENGTH)
        for kind in (*WITH_LENGTH, "PAF", "PVF", "IRCAM")
    },
    **{f"cut.{kind.lower()}": ((lambda kind=kind: half(made(kind))), CUT) for kind in WITH_LENGTH},
    # wav
    "8_bit.wav": (lambda: made("WAV", "PCM_U8"), LENGTH),
    "24_bit.wav": (lambda: made("WAV", "PCM_24"), LENGTH),
    "float.wav": (lambda: floats(NOISE), LENGTH),
    "a_law.wav": (lambda: made("WAV", "ALAW"), LENGTH),
    "open_0.wav": (lambda: sizes(0, 0), LENGTH),
    "open_ffffffff.wav": (lambda: sizes(0xFFFFFFFF, 0xFFFFFFFF), LENGTH),
    "open_7ffff000.wav": (lambda: sizes(0x7FFFF024, 0x7FFFF000), LENGTH),
    "open_and_odd.wav": (lambda: sizes(0, 0) + b"x", LENGTH),
    "riff_size_0.wav": (lambda: sizes(0, 2 * LENGTH), LENGTH),
    "too_few_bytes_in_header.wav": (lambda: sizes(2036, 2000), DAMAGED),
    "one_byte_lost.wav": (lambda: made("WAV")[:-1], CUT),
    "cut_in_header.wav": (lambda: made("WAV")[:30], CUT),
    "no_samples.wav": (lambda: floats(np.zeros(0)), "empty_audio"),
    "joined.wav": (lambda: made("WAV") + made("WAV", seed=1), 2 * LENGTH),
    "joined_and_cut.wav": (lambda: made("WAV") + half(made("WAV", seed=1)), CUT),
    "list_behind.wav": (lambda: made("WAV") + b"LIST\x04\0\0\0abcd", LENGTH),
    "id3v1_behind.wav": (lambda: made("WAV") + b"TAG".ljust(128, b"x"), LENGTH),
    "zeros_behind.wav": (lambda: made("WAV") + bytes(500), LENGTH),
    "other_rates.wav": (lambda: made("WAV") + made("WAV", rate=16000), DAMAGED),
    "named.mp3": (lambda: made("WAV"), LENGTH),
    "named.raw": (lambda: made("WAV"), LENGTH),
    # flac
    "open.flac": (lambda: open_flac(made("FLAC")), LENGTH),
    "open_and_cut.flac": (lambda: open_flac(made("FLAC"))[:-9], CUT),
    "open_and_long.flac": (lambda: open_flac(made("FLAC", None, 9001)), 9001),
    "joined.flac": (lambda: made("FLAC") + made("FLAC", seed=1), 2 * LENGTH),
    "joined_open.flac": (lambda: open_flac(made("FLAC")) + open_flac(made("FLAC", None, 5000)), LENGTH + 5000),
    "last_byte_lost.flac": (lambda: made("FLAC")[:-1], CUT),
    "header_only.flac": (lambda: made("FLAC")[:20], CUT),
    "bit_flipped.flac": (lambda: put(made("FLAC"), 3000, b"\0\0\0"), DAMAGED),
    # mp3
    "without_xing.mp3": (lambda: without_xing(mp3()), num_samples(without_xing(mp3()))),
    "without_xing_and_cut.mp3": (lambda: without_xing(mp3())[:-5], CUT),
    "start_lost.mp3": (lambda: mp3()[300:], DAMAGED),
    "id3v2.mp3": (lambda: id3(900) + mp3(), LENGTH),
    "id3v1.mp3": (lambda: mp3() + b"TAG".ljust(128, b"x"), LENGTH),
    "zeros_behind.mp3": (lambda: mp3() + bytes(3000), LENGTH),
    "joined.mp3": (lambda: mp3() + mp3(1.0, 1), LENGTH + RATE),
    "joined_with_tags.mp3": (lambda: id3(90) + mp3() + b"TAG".ljust(128, b"x") + id3(90) + mp3(1.0, 1), LENGTH + RATE),
    "frame_lost.mp3": (lambda: b"".join(frames_of(mp3())[:-1]), CUT),
    "page_in_the_middle.mp3": (lambda: put(mp3(), len(b"".join(frames_of(mp3())[:3])), b"<html>"), DAMAGED),
    # ogg
    "chained.ogg": (lambda: VORBIS() + made("OGG", "VORBIS", 20000, 1), 60000),
    "whole.opus": (OPUS, 40000),
    "chained.opus": (lambda: OPUS() + made("OGG", "OPUS", 20000, 1), 60000),
    "cut.opus": (lambda: half(OPUS()), CUT),
    "last_page_lost.ogg": (lambda: without_page(VORBIS(), -1 % len(ogg_pages(VORBIS()))), CUT),
    "first_page_lost.ogg": (lambda: without_page(VORBIS(), 0), DAMAGED),
    "page_lost.ogg": (lambda: without_page(VORBIS(), 3), DAMAGED),
    "bit_flipped.ogg": (lambda: put(VORBIS(), 9000, b"\0\0\0"), DAMAGED),
    "text_behind.ogg": (lambda: VORBIS() + b"text", DAMAGED),
    # no recordings
    "empty.wav": (bytes, "empty_audio"),
    "text.wav": (lambda: "这不是录音".encode() * 99, "unreadable_audio"),
    "text.au": (lambda: b"libsndfile takes this for u-law" * 99, "unreadable_audio"),
    "text.gsm": (lambda: b"or for GSM" * 99, "unreadable_audio"),
    "text.vox": (lambda: b"or for ADPCM" * 99, "unreadable_audio"),
    "page.mp3": (lambda: b"<html>not found</html>" * 99, "unreadable_audio"),
    # nothing to hear
    "zeros.wav": (lambda: floats(np.zeros(LENGTH)), SILENT),
    "constant.wav": (lambda: floats(np.full(LENGTH, 0.3)), SILENT),
    "dithered.wav": (lambda: floats(np.sign(NOISE) / 32768, "PCM_16"), SILENT),
    "scaled_down_twice.wav": (lambda: floats(NOISE / 32768), SILENT),
    "scaled_up.wav": (lambda: floats(NOISE * 32768), "samples_out_of_range"),
    "clipped.wav": (lambda: floats(NOISE * 32768, "PCM_16"), "clipped_audio"),
    "nan.wav": (lambda: floats(np.where(NOISE > 0.4, np.nan, NOISE)), "nan_samples"),
    "infinite.wav": (lambda: floats(np.where(NOISE > 0.4, np.inf, NOISE)), "nan_samples"),
    "antiphase.wav": (lambda: floats(np.stack([NOISE, -NOISE], 1)), "cancelling_channels"),
    "nearly_antiphase.wav": (lambda: floats(np.stack([NOISE, -0.95 * NOISE], 1)), "cancelling_channels"),
    "one_channel_silent.wav": (lambda: floats(np.stack([NOISE, 0 * NOISE], 1)), LENGTH),
    "offset.wav": (lambda: floats(NOISE + 0.2), LENGTH),
    "short.wav": (lambda: floats(NOISE[:800]), "too_short"),
    "long.wav": (lambda: floats(np.tile(NOISE, 30)), "too_long"),
}
# Rules of prepare that decoding does without.
PREPARE_ONLY = {"silent_audio", "clipped_audio", "too_short", "too_long"}


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without ffmpeg, which reads some more
    make, verdict = CASES[name]
    path = tmp_path / name
    path.write_bytes(make())
    heard = hear(path, [WHOLE], 0.2, 10)[WHOLE]
    if isinstance(verdict, int):
        samples, rate = decode_mono(path)
        assert heard.problem is None and len(samples) == verdict
        assert heard.seconds == audio_info(path).seconds == verdict / rate
    else:
        assert heard.problem is not None and heard.problem.reason == verdict, heard
        assert verdict in PREPARE_ONLY or str(path) in heard.problem.detail
        if verdict not in PREPARE_ONLY:
            with pytest.raises(AudioError):
                decode_mono(path)
    assert capfd.readouterr() == ("", "")


def test_joined_streams_are_decoded_one_after_another(tmp_path: Path) -> None:
    for kind in ("WAV", "FLAC"):
        path = tmp_path / f"a.{kind.lower()}"
        path.write_bytes(made(kind) + made(kind, seed=1))
        expected = np.concatenate([sound(), sound(seed=1)])
        np.testing.assert_allclose(decode_mono(path)[0], expected, atol=1e-4)
        for start, end in ((0.0, 0.25), (0.25, 0.75), (0.5, 0.625), (0.75, 1.0)):
            part, rate = decode_mono(path, Part(start, end))
            assert np.array_equal(part, decode_mono(path)[0][round(start * rate) : round(end * rate)])


def test_an_mp3_sounds_the_same_without_its_xing_header(tmp_path: Path) -> None:
    plain, bare = tmp_path / "a.mp3", tmp_path / "b.mp3"
    plain.write_bytes(mp3(1.0))
    bare.write_bytes(without_xing(mp3(1.0)))
    whole, padded = decode_mono(plain)[0], decode_mono(bare)[0]
    start = int(np.argmax(np.correlate(padded, whole[500:1500])[:3000])) - 500  # the encoder's delay
    np.testing.assert_allclose(padded[start : start + len(whole)][:-600], whole[:-600], atol=1e-4)


def test_antiphase_clips_of_different_sounds_differ(tmp_path: Path) -> None:
    """Digests are made before channels are mixed: two recordings whose mean is equal are not the same."""
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    other = sound(seed=1) / 4
    paths[0].write_bytes(floats(np.stack([NOISE + other, NOISE - other], 1)))
    paths[1].write_bytes(floats(np.stack([NOISE, NOISE], 1)))
    first, second = (hear(path, [WHOLE], 0.2, 10)[WHOLE] for path in paths)
    assert first.problem is None and second.problem is None and first.digest != second.digest


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="read by the ffmpeg command")
def test_ffmpeg_does_not_read_what_has_lost_its_start(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(without_xing(mp3(3.0))[301:])
    with pytest.raises(AudioError, match="not a readable recording"):
        audio_info(tmp_path / "a.mp3")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="m4a and webm are made, and read, by the ffmpeg command")
@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.aac"])
def test_other_formats_are_read_through_ffmpeg(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(made("WAV"))
    subprocess.run(["ffmpeg", "-v", "error", "-i", "a.wav", name], cwd=tmp_path, check=True)
    assert hear(tmp_path / name, [WHOLE], 0.2, 10)[WHOLE].seconds == pytest.approx(0.5, abs=0.2)
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(half((tmp_path / name).read_bytes()))
    problem = hear(cut, [WHOLE], 0.2, 10)[WHOLE].problem
    assert problem is not None and problem.reason == "unreadable_audio"


def test_without_ffmpeg_the_remedy_is_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    with pytest.raises(AudioError, match=r"a\.m4a: not a readable.* `ffmpeg -i IN -ac 1 -ar 16000 OUT\.flac`"):
        audio_info(tmp_path / "a.m4a")
