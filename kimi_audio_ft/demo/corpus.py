"""Synthetic demo corpus, in the form of a real one: wav files of segments, and a CSV with their transcripts.

``python -m kimi_audio_ft.demo.corpus --out DIR`` writes ``DIR/corpus.csv`` (columns audio, text, recording, speaker;
audio relative to the CSV), ``DIR/audio/<recording>_<segment>.wav`` (16-bit PCM, 16 kHz, mono), and of the target domain
``DIR/terms.txt``, its names and terms. Segments of a recording share speaker and noise level, so that splits by
recording are meaningful.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import random
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kimi_audio_ft.demo.mandarin import Sentence
from kimi_audio_ft.demo.meetings import OWN_WORDS
from kimi_audio_ft.demo.sentences import DOMAINS, check_domain, generate
from kimi_audio_ft.demo.speech import SAMPLE_RATE, Speaker, Synthesizer, Waveform, add_noise, draw_snr_db, draw_speaker
from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.files import write_text
from kimi_audio_ft.paths import expanded

CSV_NAME, TERMS_NAME = "corpus.csv", "terms.txt"
COLUMNS = ("audio", "text", "recording", "speaker")
_MARKER = "corpus.json"  # parameters of the corpus; a second run skips equal ones
_RECORDINGS_PER_SPEAKER = 4


@dataclass(frozen=True)
class CorpusParameters:
    """All inputs of a corpus, which is reproducible byte by byte. bad_rows: add rows that preparation must reject."""

    domain: str = "target"
    recordings: int = 60
    segments: int = 8
    seed: int = 1
    bad_rows: bool = True

    def __post_init__(self) -> None:
        check_domain(self.domain)
        for option in ("recordings", "segments"):
            if getattr(self, option) < 1:
                raise ConfigError(option, getattr(self, option), "must be at least 1")


@dataclass(frozen=True)
class Clip:
    """One segment before synthesis."""

    recording: str
    segment: int
    sentence: Sentence
    speaker: Speaker
    snr_db: float
    noise_seed: tuple[int, ...]

    @property
    def audio(self) -> str:
        """Path of the wav file, relative to the CSV."""
        return f"audio/{self.recording}_{self.segment:02d}.wav"

    def row(self) -> dict[str, str]:
        values = (self.audio, self.sentence.text, self.recording, self.speaker.name)
        return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True)
class CorpusSummary:
    """Size of a corpus and the time taken; ``created`` is False if it existed already."""

    folder: Path
    clips: int
    minutes: float
    seconds_taken: float
    created: bool


def synthesize_corpus(folder: str | Path, parameters: CorpusParameters | None = None) -> CorpusSummary:
    """Writes a corpus into ``folder``; does nothing if exactly this corpus is there already.

    Built in a temporary folder and renamed, so that an interrupted run leaves no partial corpus. Raises ``DataError``
    if ``folder`` holds something else and ``UserError`` if ``espeakng-loader`` is missing.
    """
    started = time.monotonic()
    parameters, folder = parameters or CorpusParameters(), expanded(folder).resolve()
    clips = _plan(parameters)
    table = _csv_text(clips, parameters.bad_rows)
    marker = {**asdict(parameters), "csv_sha256": hashlib.sha256(table.encode()).hexdigest(), "clips": len(clips)}
    present = _present_minutes(folder, marker, clips)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        if present is not None:
            _write_terms(folder, parameters.domain)  # earlier versions wrote none
            return CorpusSummary(folder, len(clips), present, time.monotonic() - started, created=False)
        (aside / "audio").mkdir(parents=True)
        minutes = _write_audio(aside, clips, parameters.bad_rows)
        _write_terms(aside, parameters.domain)
        (aside / CSV_NAME).write_text(table, encoding="utf-8", newline="")
        (aside / _MARKER).write_text(json.dumps({**marker, "minutes": minutes}, indent=2) + "\n", encoding="utf-8")
        aside.replace(folder)  # the target is absent or an empty folder
    except OSError as error:
        raise DataError(
            folder, f"the corpus could not be written: {error}", "Free the disk or name another folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return CorpusSummary(folder, len(clips), minutes, time.monotonic() - started, created=True)


def _plan(parameters: CorpusParameters) -> list[Clip]:
    """All segments with speakers and noise levels, without audio."""
    rng = random.Random(f"corpus {parameters.domain} {parameters.seed}")
    cast = [draw_speaker(parameters.domain, rng) for _ in range(1 + parameters.recordings // _RECORDINGS_PER_SPEAKER)]
    sentences = iter(generate(parameters.domain, parameters.recordings * parameters.segments, parameters.seed))
    clips = []
    for recording in range(1, parameters.recordings + 1):
        speaker, snr_db = rng.choice(cast), draw_snr_db(parameters.domain, rng)
        for segment in range(1, parameters.segments + 1):
            seed = (parameters.seed, recording, segment)
            clips.append(Clip(f"meeting_{recording:03d}", segment, next(sentences), speaker, snr_db, seed))
    return clips


def render(
    synthesizer: Synthesizer, sentence: Sentence, speaker: Speaker, snr_db: float, noise_seed: tuple[int, ...]
) -> Waveform:
    clean = synthesizer.speak(sentence.spoken, variant=speaker.variant, rate=speaker.rate, pitch=speaker.pitch)
    return add_noise(clean, snr_db, np.random.default_rng(noise_seed))


def _write_terms(folder: Path, domain: str) -> None:
    """The domain's list, unless there is a file, which its user may have edited."""
    path = folder / TERMS_NAME
    if domain == "target" and not path.exists():
        write_text(path, "".join(f"{word}\n" for word in OWN_WORDS))


def _write_audio(folder: Path, clips: list[Clip], bad_rows: bool) -> float:
    """Writes the wav files; returns the minutes of speech."""
    import soundfile

    synthesizer, samples = Synthesizer(), 0
    for clip in clips:
        waveform = render(synthesizer, clip.sentence, clip.speaker, clip.snr_db, clip.noise_seed)
        soundfile.write(folder / clip.audio, waveform, SAMPLE_RATE, subtype="PCM_16")
        samples += waveform.size
    if bad_rows:
        first = clips[0]
        soundfile.write(folder / _EMPTY_AUDIO, np.zeros(0, np.float32), SAMPLE_RATE, subtype="PCM_16")
        shutil.copyfile(folder / first.audio, folder / _COPIED_AUDIO)
        # Separate takes, so that only their text is wrong; from 1, because a trailing 0 in a numpy seed has no effect.
        for take, audio in enumerate((_NO_TEXT_AUDIO, _LONG_TEXT_AUDIO), start=1):
            waveform = render(synthesizer, first.sentence, first.speaker, first.snr_db, (*first.noise_seed, take))
            soundfile.write(folder / audio, waveform, SAMPLE_RATE, subtype="PCM_16")
    return samples / SAMPLE_RATE / 60


_MISSING_AUDIO, _EMPTY_AUDIO, _COPIED_AUDIO = "audio/lost.wav", "audio/empty.wav", "audio/copy.wav"
_NO_TEXT_AUDIO, _LONG_TEXT_AUDIO = "audio/no_text.wav", "audio/long_text.wav"


def _csv_text(clips: list[Clip], bad_rows: bool) -> str:
    rows = [clip.row() for clip in clips]
    if bad_rows:
        middle = len(rows) // 2
        rows[middle:middle] = _bad_rows(clips[0].row())
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _bad_rows(first: dict[str, str]) -> list[dict[str, str]]:
    """Typical faults of real tables: missing file, empty transcript, empty file, duplicate, far too much text."""
    return [
        {**first, "audio": _MISSING_AUDIO},
        {**first, "audio": _NO_TEXT_AUDIO, "text": ""},
        {**first, "audio": _EMPTY_AUDIO},
        {**first, "audio": _COPIED_AUDIO},
        {**first, "audio": _LONG_TEXT_AUDIO, "text": first["text"] * 20},
    ]


def _present_minutes(folder: Path, marker: dict[str, object], clips: list[Clip]) -> float | None:
    """Minutes of the corpus if it is in ``folder``, None if that is absent or empty; else ``DataError``."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        found = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        table = (folder / CSV_NAME).read_bytes()
        minutes = float(found.pop("minutes"))
    except (OSError, ValueError, KeyError, AttributeError):
        raise DataError(folder, "exists and is no demo corpus", "Name another folder with --out") from None
    if found != marker or hashlib.sha256(table).hexdigest() != marker["csv_sha256"]:
        raise DataError(folder, "holds a corpus made from other parameters", "Delete it or name another folder")
    if lost := [clip.audio for clip in clips if not (folder / clip.audio).is_file()]:
        problem = f"lacks {len(lost)} of its audio files (first: {lost[0]})"
        raise DataError(folder, problem, "Delete it, it will be made again")
    return minutes


def main(arguments: list[str] | None = None) -> int:
    defaults = CorpusParameters()
    parser = argparse.ArgumentParser(prog="python -m kimi_audio_ft.demo.corpus", description="Make the demo corpus.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not hold anything else")
    parser.add_argument("--domain", choices=sorted(DOMAINS), default=defaults.domain)
    parser.add_argument("--recordings", type=int, default=defaults.recordings, help="default %(default)s")
    parser.add_argument("--segments", type=int, default=defaults.segments, help="per recording, default %(default)s")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--no-bad-rows", dest="bad_rows", action="store_false", help="leave out the rows to be rejected"
    )
    options = vars(parser.parse_args(arguments))
    try:
        summary = synthesize_corpus(options.pop("out"), CorpusParameters(**options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    what = f"{summary.clips} segments, {summary.minutes:.1f} minutes of speech"
    if summary.created:
        print(f"Wrote {summary.folder / CSV_NAME}: {what}, in {summary.seconds_taken:.1f} s")
    else:
        print(f"{summary.folder / CSV_NAME} is already there: {what}; nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
