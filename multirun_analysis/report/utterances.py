"""Where a hypothesis differs from its reference, character by character."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.scoring.normalise import normalise
from multirun_analysis.sweep import Trial

MOST_SHOWN = 12
MOST_CHARS = 400  # of one text: a model that runs in a circle writes thousands


@dataclass(frozen=True)
class Piece:
    """A stretch of text; ``kind`` is equal, replace, delete (reference only) or insert (hypothesis only).

    Of kind "cut" its text is the number of characters that are not shown.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Mistake:
    """An utterance that was not transcribed exactly, with its differences marked on both sides.

    audio: the recording's file name; ``path`` is all of it, as the manifest has it.
    """

    identity: str
    audio: str | None
    path: str | None
    cer: float
    reference: list[Piece]
    hypothesis: list[Piece]


def worst_utterances(trial: Trial, most: int = MOST_SHOWN) -> list[Mistake]:
    """The ``most`` utterances with the highest CER, each in its worst repeat; exact ones are left out."""
    worst: dict[str, dict[str, Any]] = {}
    for line in map(_complete, trial.utterances):
        identity = str(line["id"])
        if identity not in worst or _severity(line) > _severity(worst[identity]):
            worst[identity] = line
    ordered = sorted(worst.values(), key=_severity, reverse=True)
    return [_mistake(line) for line in ordered[:most] if line["cer"]]


def mark(reference: str, hypothesis: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts cut at the edits of a shortest edit path (the one an error rate counts)."""
    left, right = [], []
    for step in Levenshtein.opcodes(reference, hypothesis):
        if step.src_end > step.src_start:
            left.append(Piece(step.tag, reference[step.src_start : step.src_end]))
        if step.dest_end > step.dest_start:
            right.append(Piece(step.tag, hypothesis[step.dest_start : step.dest_end]))
    return left, right


def shortened(pieces: list[Piece], most: int = MOST_CHARS) -> list[Piece]:
    """The first ``most`` characters, and how many more there are."""
    shown, left = [], most
    for piece in pieces:
        if left > 0:
            shown.append(Piece(piece.kind, piece.text[:left]))
        left -= len(piece.text)
    return shown if left >= 0 else [*shown, Piece("cut", f"{-left:,}")]


def _complete(line: dict[str, Any]) -> dict[str, Any]:
    """A row with what older files lack: a text where nothing was heard, and its error rate."""
    hypothesis, cer = line["hypothesis"] or "", line.get("cer")
    if cer is None:
        reference, heard = normalise(line["reference"]), normalise(hypothesis)
        cer = Levenshtein.distance(reference, heard) / max(len(reference), 1)
    return {**line, "hypothesis": hypothesis, "cer": cer}


def _severity(line: dict[str, Any]) -> tuple[float, int]:
    """Of two equally wrong utterances the longer one tells more."""
    return (line["cer"], len(line["reference"]))


def _mistake(line: dict[str, Any]) -> Mistake:
    reference, hypothesis = mark(normalise(line["reference"]), normalise(line["hypothesis"]))
    path = str(line["audio"]) if line.get("audio") else None
    name = Path(path).name if path else None
    return Mistake(str(line["id"]), name, path, line["cer"], shortened(reference), shortened(hypothesis))


# --- Recordings of the worst utterances, small enough for the page: 16 kHz mono MP3, which every browser plays.

LONGEST_SECONDS = 40.0
BUDGET = 2_000_000  # characters of all data URIs together
SAMPLE_RATE = 16_000
COMPRESSION = 0.85  # of libsndfile's range; at 16 kHz some 30 kbit/s, in which speech is still clear


@dataclass(frozen=True)
class Clip:
    """A recording as a data URI, or the key of the message that says why there is none."""

    uri: str | None = None
    why_not: str | None = None


def clips(paths: Sequence[str | None], budget: int = BUDGET) -> list[Clip]:
    """One clip per path, in order, as long as the budget lasts.

    Nothing is raised: what cannot be read is said in the page. The same path is encoded once and counts once for each
    of its places.
    """
    made: dict[str, Clip] = {}
    found, left = [], budget
    for path in paths:
        if path is None:
            found.append(Clip())
            continue
        if path not in made:
            made[path] = _clip(Path(path))
        clip = made[path]
        if clip.uri is not None and len(clip.uri) > left:
            clip = Clip(why_not="audio.budget")
        left -= len(clip.uri or "")
        found.append(clip)
    return found


def _clip(path: Path) -> Clip:
    import soundfile  # not needed by sweeps without mistakes

    if not path.is_file():
        return Clip(why_not="audio.missing")
    try:
        if soundfile.info(path).duration > LONGEST_SECONDS:
            return Clip(why_not="audio.too_long")
        return Clip(uri="data:audio/mpeg;base64," + base64.b64encode(_mp3(path)).decode("ascii"))
    except (OSError, RuntimeError):  # libsndfile's errors are RuntimeErrors
        return Clip(why_not="audio.unreadable")


def _mp3(path: Path) -> bytes:
    import soundfile
    from scipy.signal import resample_poly

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = resample_poly(mono, SAMPLE_RATE, rate)
    file = io.BytesIO()
    soundfile.write(file, mono, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=COMPRESSION)
    return file.getvalue()
