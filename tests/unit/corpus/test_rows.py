"""The rules that leave a row out, each at its limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.corpus.reasons import Problem
from kimi_audio_ft.corpus.rows import check_duration, check_repeated, check_speech_rate, hear
from kimi_audio_ft.corpus.transcripts import check_transcript, num_characters
from kimi_audio_ft.manifest.part import WHOLE


@pytest.mark.parametrize(("text", "count"), [("你好，LPL 5G。", 7), ("the end", 6), ("…… ，", 0), ("", 0), ("é㊀", 2)])
def test_letters_and_digits_are_counted(text: str, count: int) -> None:
    assert num_characters(text) == count


def test_a_transcript_needs_a_letter_or_digit() -> None:
    assert check_transcript("嗯") is None
    for text in ("", "。。。"):
        problem = check_transcript(text)
        assert problem is not None and problem.reason == "empty_transcript" and repr(text) in problem.detail


def test_duration_limits_are_allowed_themselves() -> None:
    assert check_duration(0.5, 0.5, 2) is None and check_duration(2.0, 0.5, 2) is None
    assert check_duration(0.499, 0.5, 2) == Problem("too_short", "0.499 s is shorter than min_seconds=0.5")
    assert check_duration(2.001, 0.5, 2) == Problem("too_long", "2.001 s is longer than max_seconds=2")


def test_speech_rate() -> None:
    assert check_speech_rate("一二三四", 1.0, 1, 4) is None
    expected = "5 characters in 1.000 s are 5.00 a second, above max_chars_per_second=4"
    assert check_speech_rate("一二三四五", 1.0, 1, 4) == Problem("chars_per_second", expected)
    problem = check_speech_rate("一", 4.0, 1, 4)
    assert problem is not None and "0.25 a second, below min_chars_per_second=1" in problem.detail


def test_the_first_of_equal_recordings_stays() -> None:
    first_line: dict[str, int] = {}
    problems = [check_repeated(digest, line, first_line) for line, digest in enumerate("abaab", start=2)]
    assert [problem is None for problem in problems] == [True, True, False, False, False]
    assert problems[3] == Problem("duplicate_audio", "same samples as the recording of line 2")
    assert problems[4] == Problem("duplicate_audio", "same samples as the recording of line 3")


def test_hear(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.linspace(-0.1, 0.1, 8000, dtype=np.float32), 8000, subtype="FLOAT")
    heard = hear(path, [WHOLE], 0.1, 2)[WHOLE]
    assert heard.problem is None and heard.seconds == 1.0
    assert hear(path, [WHOLE], 2, 3)[WHOLE].problem == Problem("too_short", "1.000 s is shorter than min_seconds=2")
    missing = hear(tmp_path / "no.wav", [WHOLE], 0.1, 2)[WHOLE].problem
    assert missing is not None and missing.reason == "missing_audio" and "no.wav" in missing.detail


@pytest.mark.parametrize("cell", ["长" * 300 + "/a.wav", "a\0/a.wav"])
def test_a_cell_that_no_path_can_be_is_a_missing_recording(tmp_path: Path, cell: str) -> None:
    problem = hear(tmp_path / cell, [WHOLE], 0.1, 2)[WHOLE].problem
    assert problem is not None and problem.reason == "missing_audio"


def test_too_long_is_told_by_the_header_alone(tmp_path: Path) -> None:
    """A recording of the wrong length is not decoded: its NaN is never met."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")
    assert hear(path, [WHOLE], 0.1, 0.5)[WHOLE].problem == Problem("too_long", "1.000 s is longer than max_seconds=0.5")
    problem = hear(path, [WHOLE], 0.1, 2)[WHOLE].problem
    assert problem is not None and problem.reason == "nan_samples"
