"""The part of a recording that an audio message is: a stretch of time, one channel, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Tables give ends in hundredths of a second, which may round up beyond the last sample.
_ROUNDING = 0.01
_MOST_SECONDS, _MOST_CHANNELS = 1e9, 1024


@dataclass(frozen=True, slots=True)
class Part:
    """start, end: in seconds, both or neither. channel: from 0; None: the mean of all."""

    start: float | None = None
    end: float | None = None
    channel: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Part:
        """The part that an audio message, or a line of ``utterances.jsonl``, names."""
        start, end, channel = (values.get(key) for key in KEYS)
        if start is None or end is None:
            return WHOLE if channel is None else cls(channel=channel)
        return cls(float(start), float(end), channel)

    def fields(self) -> dict[str, Any]:
        """Its keys in an audio message: none for a whole recording."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def samples(self, num_samples: int, sample_rate: int) -> tuple[int, int]:
        """First sample, and the one behind the last, of a recording with this length and rate in Hz."""
        if self.start is None or self.end is None:
            return 0, num_samples
        return round(self.start * sample_rate), min(round(self.end * sample_rate), num_samples)

    def digest(self, recording: str) -> str:
        """Digest (hex) that stands for its samples, given that of the file's bytes, which it is for a whole recording.

        No sample is read for it: planning a sweep asks for the digests of a whole corpus.
        """
        if self == WHOLE:
            return recording
        return hashlib.sha256(f"{recording} {self.start!r} {self.end!r} {self.channel!r}".encode()).hexdigest()

    def overlaps(self, other: Part) -> bool:
        """Whether both have samples in common, given that they are parts of the same recording."""
        if None not in (self.channel, other.channel) and self.channel != other.channel:
            return False
        if self.start is None or self.end is None or other.start is None or other.end is None:
            return True
        return self.start < other.end and other.start < self.end

    def name_in(self, recording: str | Path) -> str:
        """The recording's name with this part, for messages."""
        return str(recording) if self == WHOLE else f"{recording} ({self})"

    def __str__(self) -> str:
        time = f"{self.start:.10g} s to {self.end:.10g} s" if self.start is not None else ""
        return ", ".join(filter(None, [time, f"channel {self.channel}" if self.channel is not None else ""]))

    def problem_of_time(self, num_samples: int, sample_rate: int) -> str | None:
        """Why a recording of this length has no such stretch, or None."""
        if self.end is None:
            return None
        seconds = num_samples / sample_rate
        if self.end > seconds + _ROUNDING:
            return f"its end lies beyond the recording's end at {seconds:.3f} s"
        first, stop = self.samples(num_samples, sample_rate)
        return None if first < stop else f"it holds no sample at {sample_rate} Hz"

    def problem_of_channel(self, channels: int) -> str | None:
        """Why a recording of this number of channels lacks the channel, or None."""
        if self.channel is None or self.channel < channels:
            return None
        return f"the recording has {channels} channel{'s' if channels > 1 else ''}, numbered from 0"


WHOLE = Part()
KEYS = ("start", "end", "channel")


def problem_of_part(message: Mapping[str, Any]) -> str | None:
    """Why the part that an audio message names cannot be one of any recording, or None."""
    given = {key: message[key] for key in KEYS if key in message}
    for key, value in given.items():
        kinds = (int,) if key == "channel" else (int, float)
        most = _MOST_CHANNELS - 1 if key == "channel" else _MOST_SECONDS
        if type(value) not in kinds or not 0 <= value <= most:
            rule = "a channel's number from 0" if key == "channel" else "seconds, a number from 0"
            return f"{key} is {value!r}; it must be {rule}"
    if ("start" in given) != ("end" in given):
        return f"{'end' if 'start' in given else 'start'} is missing; start and end go together"
    if "start" in given and given["start"] >= given["end"]:
        return f"end is {given['end']!r}; it must be after start, which is {given['start']!r}"
    return None
