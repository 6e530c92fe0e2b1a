"""Recordings of the worst utterances, small enough for the page: 16 kHz mono MP3, which every browser plays."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
