"""Limits on what the ffmpeg command may make of a recording; another program stands in its place."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.manifest.audio import AudioError, lengths_16k, open_recording, read_audio
from kimi_audio_ft.manifest.part import Part

# An m4a as libsndfile sees it.
UNKNOWN = b"\0\0\0\x20ftypM4A " + bytes(500)


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in its place, which notes its options; what it writes is up to the test."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    (tmp_path / "a.m4a").write_bytes(UNKNOWN)
    return tmp_path / "bin" / "ffmpeg"


def write(program: Path, body: str) -> None:
    program.write_text(f'#!/bin/sh\necho "$@" > "$0.options"\n{body}\n', encoding="utf-8")
    program.chmod(0o755)


def decodes_a_second(program: Path) -> None:
    wav = io.BytesIO()
    soundfile.write(wav, np.full(16_000, 0.1), 16_000, format="WAV", subtype="FLOAT")
    one = program.with_name("one.wav")
    one.write_bytes(wav.getvalue())
    write(program, f'echo >> "$0.runs"\ncat "{one}"')


def test_the_parts_of_a_recording_are_taken_from_one_decoding(ffmpeg: Path, tmp_path: Path) -> None:
    decodes_a_second(ffmpeg)
    (tmp_path / "b.m4a").write_bytes(UNKNOWN)
    parts = [Part(number / 10, (number + 1) / 10) for number in range(10)]
    files = [tmp_path / name for name in ("a.m4a", "b.m4a") for _ in parts]
    assert lengths_16k(files, [*parts, *parts]).tolist() == [1600] * 20
    assert all(len(read_audio(file, part)) == 1600 for file, part in zip(files, [*parts, *parts], strict=True))
    assert len(ffmpeg.with_suffix(".runs").read_text(encoding="utf-8").splitlines()) == 2


def test_no_more_is_decoded_than_may_be_heard(ffmpeg: Path, tmp_path: Path) -> None:
    decodes_a_second(ffmpeg)
    assert open_recording(tmp_path / "a.m4a", longest=90).seconds == 1
    assert " -t 91 " in ffmpeg.with_suffix(".options").read_text(encoding="utf-8")
    assert open_recording(tmp_path / "a.m4a").seconds == 1
    assert " -t " not in ffmpeg.with_suffix(".options").read_text(encoding="utf-8")


def test_many_channels_are_not_decoded_into_memory(ffmpeg: Path, tmp_path: Path) -> None:
    write(ffmpeg, "exec cat /dev/zero")
    with pytest.raises(AudioError, match=r"a\.m4a: has too many channels, or too high a sample rate"):
        open_recording(tmp_path / "a.m4a", longest=1)


def test_its_errors(ffmpeg: Path, tmp_path: Path) -> None:
    write(ffmpeg, 'echo "no moov atom" >&2; exit 1')
    for longest in (None, 10.0):
        with pytest.raises(AudioError, match=r"not a readable recording \(ffmpeg: no moov atom\)"):
            open_recording(tmp_path / "a.m4a", longest=longest)
