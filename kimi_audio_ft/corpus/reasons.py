"""Reasons for which ``prepare`` leaves a row out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

REASONS = {
    "malformed_row": "the row does not have the columns' number of fields",
    "missing_audio": "there is no such recording",
    "unreadable_audio": "the recording is damaged, cut, or of an unknown format",
    "empty_audio": "the recording has no samples",
    "bad_segment": "start and end are no stretch of the recording in seconds",
    "no_channel": "the recording does not have this channel",
    "too_short": "shorter than min_seconds",
    "too_long": "longer than max_seconds",
    "nan_samples": "samples are NaN or infinite",
    "samples_out_of_range": "samples lie far outside [-1, 1]",
    "clipped_audio": "most samples lie at full scale",
    "silent_audio": "digital silence, a constant, or scaled down to nothing",
    "cancelling_channels": "the channels cancel each other when they are mixed",
    "empty_transcript": "the transcript has no letter or digit, or stands for an empty cell",
    "garbled_transcript": "the transcript was read in a wrong encoding, or holds control characters",
    "tagged_transcript": "the transcript has tags such as <unk> (tags=strip removes them, tags=keep keeps them)",
    "chars_per_second": "too few or too many characters for the length",
    "no_group": "the row does not say which recording it belongs to",
    "other_transcript": "same samples as another row, which has another transcript",
    "duplicate_audio": "same samples as an earlier row",
    "dropped": "dropped by a line of decisions=FILE",
    "balanced_out": "dropped by balance_mode=downsample",
}
"""Every reason code of ``rejected.jsonl``, in the order of the summary."""


class Problem(NamedTuple):
    """Reason code, and a sentence with the value and the rule."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Rejection:
    """One line of ``rejected.jsonl``."""

    line: int
    reason: str
    detail: str
    row: dict[str, str]
