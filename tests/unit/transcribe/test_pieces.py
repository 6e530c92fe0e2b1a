"""Recordings become pieces, or say why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.config.transcribe import TranscribeConfig
from kimi_audio_ft.manifest.audio import Recording, open_recording
from kimi_audio_ft.manifest.part import WHOLE, Part
from kimi_audio_ft.transcribe.pieces import Cutter, Heard, hear_all, in_threads, readable
from kimi_audio_ft.transcribe.progress import HoursBar
from kimi_audio_ft.transcribe.sources import Source, find_recordings
from tests.silero import hear_no_speech

RATE = 8000
Hear = Callable[..., list[Heard]]


def write(path: Path, seconds: float, channels: int = 1, seed: int = 3) -> None:
    samples = np.random.default_rng(seed).normal(0, 0.1, (round(RATE * seconds), channels))
    soundfile.write(path, samples, RATE)


@pytest.fixture
def hear(tmp_path: Path) -> Hear:
    """Hears recordings of the test's folder."""

    def run(*names: str, **options: Any) -> list[Heard]:
        audio = [str(tmp_path / name) for name in names]
        config = TranscribeConfig(audio=audio, out="out", **{"cut": "windows", "max_seconds": 5.0, **options})
        return hear_all(find_recordings(config.audio), config)

    return run


def parts(heard: Heard) -> Sequence[Part]:
    return [piece.part for piece in heard.pieces]


def test_a_short_recording_is_one_piece_that_evaluation_would_hear(hear: Hear, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 5.0)
    (one,) = hear("a.wav")
    assert parts(one) == [WHOLE] and one.seconds == 5.0 and one.problem is None
    digest = hashlib.sha256((tmp_path / "a.wav").read_bytes()).hexdigest()
    assert one.digest == one.pieces[0].key == digest
    assert (one.pieces[0].start, one.pieces[0].end) == (0.0, 5.0)


def test_windows_of_a_long_one(hear: Hear, tmp_path: Path) -> None:
    write(tmp_path / "a.flac", 12.6)
    (one,) = hear("a.flac")
    assert parts(one) == [Part(0.0, 4.2), Part(4.2, 8.4), Part(8.4, 12.6)]
    assert len({piece.key for piece in one.pieces}) == 3
    assert one.pieces[1].key == Part(4.2, 8.4).digest(one.digest) and one.pieces[1].seconds == pytest.approx(4.2)


def test_a_channel(hear: Hear, tmp_path: Path) -> None:
    write(tmp_path / "two.wav", 6.0, channels=2)
    write(tmp_path / "one.wav", 1.0)
    two, one = hear("two.wav", "one.wav", channel=1)
    assert parts(two) == [Part(0.0, 3.0, 1), Part(3.0, 6.0, 1)]
    assert one.problem is not None and one.problem.reason == "no_channel" and not one.pieces


def test_a_recording_that_cannot_be_read_has_its_reason(hear: Hear, tmp_path: Path) -> None:
    write(tmp_path / "good.wav", 1.0)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_bytes(b"not audio at all")
    good, empty, text = hear("good.wav", "empty.wav", "text.wav")
    assert good.problem is None and good.pieces
    assert [one.problem and one.problem.reason for one in (empty, text)] == ["empty_audio", "unreadable_audio"]


def test_what_only_decoding_shows_is_found_where_it_is_asked_for(hear: Hear, tmp_path: Path) -> None:
    samples = np.zeros(RATE * 12, np.float32)
    samples[RATE * 6] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    (one,) = hear("nan.wav")
    keys = {piece.key for piece in one.pieces}
    assert len(keys) == 3 and one.problem is None
    assert readable(one, {one.pieces[0].key}) == one
    failed = readable(one, keys)
    assert failed.problem is not None and failed.problem.reason == "nan_samples" and not failed.pieces
    assert "4 s to 8 s" in str(failed.problem)


def test_progress_of_the_search_for_pauses(hear: Hear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Bar(HoursBar):
        def __init__(self, seconds: float, visible: bool, doing: str) -> None:
            super().__init__(seconds, visible, doing)
            told.append((seconds, visible, doing))

        def add(self, seconds: float) -> None:
            super().add(seconds)
            told.append(seconds)

    monkeypatch.setattr("kimi_audio_ft.transcribe.pieces.HoursBar", Bar)
    hear_no_speech(monkeypatch, tmp_path)
    for name, seconds in (("a.wav", 6.0), ("b.wav", 1.0), ("c.wav", 7.0)):
        write(tmp_path / name, seconds)
    assert [len(one.pieces) for one in hear("a.wav", "b.wav", "c.wav", cut="pauses")] == [0, 1, 0]
    assert told == [(13.0, True, "looking for pauses"), 6.0, 7.0]


def test_ctrl_c_does_not_wait_for_the_end_of_a_long_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", 6.0)
    hear_no_speech(monkeypatch, tmp_path)
    cutter, begun = Cutter("pauses", 5.0, kept=False), Event()
    one = Heard(Source(tmp_path / "a.wav", "a.wav"), 6.0, "digest")
    assert cutter.cut(one).pieces == ()

    def work(name: str) -> None:
        if name == "interrupted":
            begun.wait()
            raise KeyboardInterrupt
        begun.set()
        cutter.stop.wait()  # as in the middle of a recording
        cutter.cut(one)

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, ["interrupted", "long"], 2, stop=cutter.stop.set)
    with pytest.raises(CancelledError):
        cutter.cut(one)


def test_a_recording_is_opened_once_for_all_its_pieces(
    hear: Hear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ffmpeg decodes it, opening decodes the whole of it."""
    write(tmp_path / "a.wav", 20.0)
    (one,) = hear("a.wav")
    opened = []

    def open_and_count(path: Path, part: Part = WHOLE) -> Recording:
        opened.append(path)
        return open_recording(path, part)

    monkeypatch.setattr("kimi_audio_ft.transcribe.pieces.open_recording", open_and_count)
    assert readable(one, set()) == one and opened == []
    assert readable(one, {piece.key for piece in one.pieces}) == one and len(one.pieces) == 4
    assert opened == [one.source.path]


def test_the_same_content_has_the_same_key_at_any_path(hear: Hear, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 6.0)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    write(tmp_path / "c.wav", 6.0, seed=4)
    a, b, c = ({piece.key for piece in one.pieces} for one in hear("a.wav", "b.wav", "c.wav"))
    assert a == b and not a & c
