"""The worst utterances: where each hypothesis differs from its reference, and its recording as embedded audio."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.manifest.part import Part
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.scoring.normalise import normalise
from kimi_audio_ft.store.cache import keep, recall
from kimi_audio_ft.store.digests import file_digest
from multirun_analysis.messages import Messages
from multirun_analysis.sweep import Trial

MOST_SHOWN = 12
MOST_CHARS = 400  # of one text: runaway output has thousands
# Recordings are embedded as 16 kHz mono MP3, which is small and which every browser plays.
LONGEST_SECONDS = 40.0
BUDGET = 2_000_000  # characters of all data URIs together
SAMPLE_RATE = 16_000
COMPRESSION = 0.85  # of libsndfile's range; at 16 kHz some 30 kbit/s, in which speech is still clear


@dataclass(frozen=True)
class MarkedText:
    """A stretch of text; ``kind`` is equal, replace, delete (reference only) or insert (hypothesis only).

    Of kind "cut" its text is the number of characters that are not shown.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Mistake:
    """An utterance that was not transcribed exactly, with its differences marked on both sides.

    part: what is heard of the audio file.
    """

    identity: str
    audio: Path | None
    part: Part
    cer: float
    reference: list[MarkedText]
    hypothesis: list[MarkedText]


def worst_utterances(trial: Trial, most: int = MOST_SHOWN) -> list[Mistake]:
    """The ``most`` utterances with the highest CER, each in its worst repeat; exact ones are left out."""
    worst: dict[str, dict[str, Any]] = {}
    for line in sorted(trial.utterances, key=_severity, reverse=True):
        worst.setdefault(str(line["id"]), line)
    return [_mistake(line) for line in list(worst.values())[:most] if line["cer"]]


def mark(reference: str, hypothesis: str) -> tuple[list[MarkedText], list[MarkedText]]:
    """Both texts cut at the edits of a shortest edit path (the one an error rate counts)."""
    left, right = [], []
    for step in Levenshtein.opcodes(reference, hypothesis):
        if step.src_end > step.src_start:
            left.append(MarkedText(step.tag, reference[step.src_start : step.src_end]))
        if step.dest_end > step.dest_start:
            right.append(MarkedText(step.tag, hypothesis[step.dest_start : step.dest_end]))
    return left, right


def shortened(pieces: list[MarkedText], most: int = MOST_CHARS) -> list[MarkedText]:
    """The first ``most`` characters, and how many more there are."""
    shown, left = [], most
    for piece in pieces:
        if left > 0:
            shown.append(MarkedText(piece.kind, piece.text[:left]))
        left -= len(piece.text)
    return shown if left >= 0 else [*shown, MarkedText("cut", f"{-left:,}")]


def place_of(audio: Path | None, part: Part, say: Messages) -> str:
    """The recording's name, and which part of it is heard; empty without one."""
    if audio is None:
        return ""
    time = [say("worst.part", start=part.start, end=part.end)] if part.start is not None else []
    channel = [say("worst.channel", number=part.channel)] if part.channel is not None else []
    return " · ".join([audio.name, *time, *channel])


def _severity(line: dict[str, Any]) -> tuple[float, int]:
    """Of two utterances with one CER the longer is worse."""
    return (line["cer"], len(line["reference"]))


def _mistake(line: dict[str, Any]) -> Mistake:
    reference, hypothesis = mark(normalise(line["reference"]), normalise(line["hypothesis"]))
    audio = Path(line["audio"]) if line.get("audio") else None
    return Mistake(str(line["id"]), audio, Part.of(line), line["cer"], shortened(reference), shortened(hypothesis))


@dataclass(frozen=True)
class EmbeddedAudio:
    """A recording as a data URI, or the key of the message that says why there is none."""

    uri: str | None = None
    why_not: str | None = None


def embedded(clips: Sequence[tuple[Path | None, Part]], budget: int = BUDGET) -> list[EmbeddedAudio]:
    """Audio for each part of a file, in order, as long as the budget lasts.

    Raises nothing: the page says what cannot be read. A clip that comes twice is encoded once and counted twice.
    """
    made = {clip: _embed(*clip) for clip in dict.fromkeys(clips)}
    found, left = [], budget
    for clip in clips:
        audio = made[clip]
        if len(audio.uri or "") > left:
            audio = EmbeddedAudio(why_not="audio.budget")
        left -= len(audio.uri or "")
        found.append(audio)
    return found


def _embed(path: Path | None, part: Part) -> EmbeddedAudio:
    if path is None:
        return EmbeddedAudio()
    if not path.is_file():
        return EmbeddedAudio(why_not="audio.missing")
    try:
        data = _encoded(path, part)
    except (OSError, RuntimeError, DataError):  # libsndfile's errors are RuntimeErrors
        return EmbeddedAudio(why_not="audio.unreadable")
    if data is None:
        return EmbeddedAudio(why_not="audio.too_long")
    return EmbeddedAudio(uri=f"data:audio/mpeg;base64,{data}")


def _encoded(path: Path, part: Part) -> str | None:
    """The part's MP3 in base64, None for a long one; the store keeps it for the next report that shows it."""
    facts = [part.digest(file_digest(path)), SAMPLE_RATE, COMPRESSION] if store_root().is_dir() else None
    data = recall("clips", facts) if facts else None
    if isinstance(data, str):
        return data
    import soundfile

    info = soundfile.info(path)
    problem = part.problem_of_time(info.frames, info.samplerate) or part.problem_of_channel(info.channels)
    if problem:
        raise DataError(path, problem)
    start, stop = part.samples(info.frames, info.samplerate)
    if stop - start > LONGEST_SECONDS * info.samplerate:
        return None
    data = base64.b64encode(_mp3(path, start, stop, part.channel)).decode("ascii")
    if facts:
        keep("clips", facts, data)
    return data


def _mp3(path: Path, start: int, stop: int, channel: int | None) -> bytes:
    import soundfile

    samples, rate = soundfile.read(path, start=start, stop=stop, dtype="float32", always_2d=True)
    mono = _resampled(samples.mean(axis=1) if channel is None else samples[:, channel], rate)
    file = io.BytesIO()
    soundfile.write(file, mono, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=COMPRESSION)
    return file.getvalue()


def _resampled(mono: NDArray[np.float32], rate: int) -> NDArray[np.floating]:
    """By its spectrum, which is good enough to listen to: scipy.signal takes a second or two to import."""
    if rate == SAMPLE_RATE or not len(mono):
        return mono
    length = round(len(mono) * SAMPLE_RATE / rate)
    return np.fft.irfft(np.fft.rfft(mono)[: length // 2 + 1], length) * (length / len(mono))
