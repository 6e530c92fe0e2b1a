"""Why a row of a CSV is left out: one function per rule, each returning a ``Problem`` or None."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kimi_audio_ft.data.audio import AudioError, audio_info, content_digest, decode_mono

REASONS = {
    "malformed_row": "the row does not have the columns' number of fields",
    "missing_audio": "there is no such recording",
    "unreadable_audio": "the recording cannot be decoded",
    "empty_audio": "the recording has no samples",
    "too_short": "shorter than min_seconds",
    "too_long": "longer than max_seconds",
    "nan_samples": "samples are NaN or infinite",
    "samples_out_of_range": "samples lie far outside [-1, 1]",
    "empty_transcript": "the transcript has no letter or digit",
    "chars_per_second": "too few or too many characters for the length",
    "no_group": "the row does not say which recording it belongs to",
    "duplicate_audio": "same samples as an earlier row",
    "balanced_out": "dropped by balance_mode=downsample",
}
"""Every reason code of ``rejected.jsonl``, in the order of the summary."""


class Problem(NamedTuple):
    """A reason code and a sentence with the value and the rule."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Rejection:
    """One line of ``rejected.jsonl``."""

    line: int
    reason: str
    detail: str
    row: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Heard:
    """A recording that decodes: its length, and the identity of its samples."""

    seconds: float
    digest: str


def check_transcript(text: str) -> Problem | None:
    """A transcript must say something: punctuation alone is no speech."""
    if num_characters(text):
        return None
    return Problem("empty_transcript", f"transcript {text!r} has no letter or digit; it must have at least 1")


def check_duration(seconds: float, shortest: float, longest: float) -> Problem | None:
    """Length in seconds within the two limits, which are allowed themselves."""
    if seconds < shortest:
        return Problem("too_short", f"{seconds:.3f} s is shorter than min_seconds={shortest:g}")
    if seconds > longest:
        return Problem("too_long", f"{seconds:.3f} s is longer than max_seconds={longest:g}")
    return None


def check_speech_rate(text: str, seconds: float, lowest: float, highest: float) -> Problem | None:
    """Characters per second within the limits: outside them the transcript belongs to another recording."""
    count = num_characters(text)
    rate = count / seconds
    if lowest <= rate <= highest:
        return None
    limit = f"below min_chars_per_second={lowest:g}" if rate < lowest else f"above max_chars_per_second={highest:g}"
    return Problem("chars_per_second", f"{count} characters in {seconds:.3f} s are {rate:.2f} a second, {limit}")


def num_characters(text: str) -> int:
    """Letters and digits of any script; blanks, punctuation and symbols are not spoken."""
    return sum(unicodedata.category(character)[0] in "LN" for character in text)


def find_duplicates(digests: Sequence[str], lines: Sequence[int]) -> dict[int, Problem]:
    """Position -> problem of every item whose digest came before; the first stays and is named by its line."""
    first: dict[str, int] = {}
    problems = {}
    for index, (digest, line) in enumerate(zip(digests, lines, strict=True)):
        if digest in first:
            problems[index] = Problem("duplicate_audio", f"same samples as the recording of line {first[digest]}")
        else:
            first[digest] = line
    return problems


def hear(path: str | Path, shortest: float, longest: float) -> Heard | Problem:
    """Opens a recording and decodes it, unless its header already puts its length outside the limits."""
    try:
        info = audio_info(path)
        problem = check_duration(info.seconds, shortest, longest)
        if problem:
            return problem
        samples, rate = decode_mono(path)
    except AudioError as error:
        return Problem(error.reason, str(error))
    return Heard(info.seconds, content_digest(samples, rate))
