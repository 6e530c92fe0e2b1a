"""Recordings that `audio` names."""

from __future__ import annotations

from errno import EACCES
from os import strerror
from pathlib import Path

import pytest

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.transcribe.sources import find_recordings


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    folder = tmp_path / "calls"
    for name in ("b.wav", "a.flac", "may/c.MP3", "may/notes.txt", ".hidden.wav", "may/[x].wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def names(*audio: str) -> list[str]:
    return [source.name for source in find_recordings(audio)]


def test_a_folder_has_its_recordings_at_every_depth(calls: Path) -> None:
    assert names(str(calls)) == ["a.flac", "b.wav", "may/[x].wav", "may/c.MP3"]
    assert all(source.path.is_absolute() and source.path.is_file() for source in find_recordings([str(calls)]))


def test_patterns_are_named_from_their_fixed_part(calls: Path) -> None:
    assert names(f"{calls}/*.wav") == ["b.wav"]
    assert names(f"{calls}/**/*") == ["a.flac", "b.wav", "may/[x].wav", "may/c.MP3"]
    assert names(f"{calls}/may/*.MP3") == ["c.MP3"]


def test_a_file_is_taken_whatever_it_is_called(calls: Path) -> None:
    assert names(f"{calls}/may/notes.txt", f"{calls}/may/[x].wav") == ["notes.txt", "[x].wav"]


def test_each_recording_is_taken_once(calls: Path) -> None:
    (calls / "link.wav").symlink_to(calls / "b.wav")
    assert names(f"{calls}/b.wav", str(calls)) == ["b.wav", "a.flac", "may/[x].wav", "may/c.MP3"]


def test_relative_paths(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(calls.parent)
    assert names("calls/*.flac") == ["a.flac"]
    (source,) = find_recordings(["calls/a.flac"])
    assert source.path == calls / "a.flac"


@pytest.mark.parametrize("audio", ["missing", "missing/*.wav", "calls/*.ogg", "empty"])
def test_what_names_nothing_is_refused(calls: Path, monkeypatch: pytest.MonkeyPatch, audio: str) -> None:
    monkeypatch.chdir(calls.parent)
    (calls.parent / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"audio='.*': (names no recording|there is no such file)"):
        find_recordings(["calls", audio])


def test_what_cannot_be_looked_at_is_refused_with_its_reason(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"audio='a+': a+ cannot be read \(File name too long\)\. Check the path"):
        find_recordings(["a" * 300])

    def closed(path: Path) -> bool:  # as in a folder that may be listed and not searched
        raise PermissionError(EACCES, strerror(EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", closed)
    with pytest.raises(ConfigError, match=r"audio='.*calls': .*calls/.* cannot be read \(Permission denied\)"):
        find_recordings([str(calls)])
