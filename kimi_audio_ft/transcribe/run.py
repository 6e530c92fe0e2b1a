"""Transcription: recordings to pieces, pieces to answers, answers to texts.

Some hours of audio at a time are encoded, decoded and written. Codes, features and answers are kept in the store by
what is heard, so that a run that was killed goes on where it was, and further recordings cost only themselves.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kimi_audio_ft.base import Base, find_adapter, require_base
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.transcribe import TranscribeConfig
from kimi_audio_ft.data.dataset import AudioSource, ConversationDataset
from kimi_audio_ft.decoding.request import Answers, DecodingRequest
from kimi_audio_ft.decoding.shares import Work, decode_shared
from kimi_audio_ft.errors import ChangedError, ConfigError, UserError
from kimi_audio_ft.features.perturbation import UNCHANGED
from kimi_audio_ft.features.tokenize import tokenize
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest.conversation import TASK
from kimi_audio_ft.manifest.manifest import read_manifest
from kimi_audio_ft.runtime.devices import gpu_freed, num_processes, refuse_launchers
from kimi_audio_ft.runtime.signals import StopRequest
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.sweep_folder import claim
from kimi_audio_ft.text import printable
from kimi_audio_ft.transcribe.confidence import text_of
from kimi_audio_ft.transcribe.outputs import JSONL, row_of, write_outputs
from kimi_audio_ft.transcribe.pieces import Heard, Piece, hear_all, in_threads, readable
from kimi_audio_ft.transcribe.progress import HoursBar
from kimi_audio_ft.transcribe.prompts import prompt_of
from kimi_audio_ft.transcribe.sources import find_recordings
from kimi_audio_ft.transcribe.texts import KnownAnswers

# Seconds of audio that are encoded, decoded and written at a time: 10 hours, whose features take 4.6 GB for the 7B.
_AT_A_TIME = 36_000.0
# Scratch in the folder of the texts: the manifest of what is being decoded.
_WORK = ".pieces"


@dataclass(frozen=True)
class Transcribed:
    """What a run has done.

    seconds, decoded: of audio in all, and of that what this run has decoded; took: seconds for it. failed: recordings
    without text. file: transcripts.jsonl.
    """

    recordings: int
    seconds: float
    decoded: float
    took: float
    failed: Sequence[Heard]
    file: Path


def transcribe(config: TranscribeConfig) -> Transcribed:
    """Write the texts of all recordings that the options name.

    Raises:
        UserError: an option or the adapter cannot be used, or no recording can be read.
        KeyboardInterrupt: it was asked to stop; what is decoded is kept.
    """
    refuse_launchers()
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise ConfigError("out", config.out, "is not a folder", "Name one, which need not exist")
    sources = find_recordings(config.audio)
    recogniser = Recogniser.of(config)
    out.mkdir(parents=True, exist_ok=True)
    with claim(out):
        print(f"looking at {len(sources)} recordings", flush=True)
        heard = hear_all(sources, config)
        started, decoded = time.monotonic(), 0.0
        try:
            for group in _groups(heard, recogniser.known):
                decoded += _transcribe_group(heard, group, recogniser, out / _WORK)
                _write(config, out, [one for one in heard if _is_done(one, recogniser.known)], recogniser.known)
        finally:
            shutil.rmtree(out / _WORK, ignore_errors=True)
        took = time.monotonic() - started
        _write(config, out, heard, recogniser.known)
    failed = [one for one in heard if one.problem is not None]
    if len(failed) == len(heard):
        raise UserError(f"none of {len(heard)} recordings can be transcribed. The first: {failed[0].problem}")
    return Transcribed(len(heard), sum(one.seconds for one in heard), decoded, took, failed, out / JSONL)


@dataclass(frozen=True)
class Recogniser:
    """A base with an adapter (its signature and folder) or alone, and how it is asked.

    requests: the repeats of the decoding setting. known: answers that the store has.
    """

    config: TranscribeConfig
    base: Base
    adapter: tuple[str, Path] | None
    prompt: str
    requests: Sequence[DecodingRequest]
    known: KnownAnswers

    @classmethod
    def of(cls, config: TranscribeConfig) -> Recogniser:
        """The recogniser that the options name, without any weight read; says which prompt it has."""
        base = Base(config.model, config.data.features, threads=config.threads)
        base.about_to_compute()
        adapter = find_adapter(config.adapter)
        if adapter:
            require_base(base, adapter[1], config.any_base)
        prompt = prompt_of(config.data.prompt, adapter[1] if adapter else None)
        who = f"adapter {adapter[0]}" if adapter else "the base alone"
        print(f"{who}, prompt {printable(prompt)}", flush=True)
        requests = DecodingRequest(config.decoding, config.seed).repeats(vocabulary=base.tokens.end)
        known = KnownAnswers(base, adapter[0] if adapter else None, prompt, requests)
        return cls(config, base, adapter, prompt, requests, known)

    def without_codes(self, keys: set[str]) -> set[str]:
        """Those of the keys of pieces whose codes, or features, the store lacks."""
        store = self.base.encoders().store()
        return {key for key in keys if UNCHANGED.key(key) not in store}

    @gpu_freed()
    def answer(self, pieces: Mapping[str, tuple[Heard, Piece]], folder: Path) -> None:
        """Encode and decode pieces by their keys; the answers are then known."""
        prompts, adapter = self._prompts(pieces, folder), self.adapter[1] if self.adapter else None
        work = Work(self.base, adapter, prompts, self.requests, progress=False, likelihoods=True)
        visible, seconds = self.config.progress, sum(piece.seconds for _, piece in pieces.values())
        with StopRequest() as stop, HoursBar(seconds, visible) as bar:

            def take(new: Answers) -> None:
                _require_unchanged(pieces[key][0] for key in new[0])
                self.known.add(new)
                bar.add(sum(pieces[key][1].seconds for key in new[0]))

            decode_shared(work, [{} for _ in self.requests], num_processes(self.config.devices), take, stop)

    def _prompts(self, pieces: Mapping[str, tuple[Heard, Piece]], folder: Path) -> ConversationDataset:
        """Generation prompts of the pieces, whose codes and features are in the store then."""
        config, base = self.config, self.base
        raw = folder / "pieces.jsonl"
        write_jsonl(raw, (self._line(key, *place) for key, place in pieces.items()))
        cached = config.data.features == "cached"
        options = TokenizeConfig(
            manifests=[str(raw)],
            model=config.model,
            features=cached,
            devices=config.devices,
            readers=config.readers,
            threads=config.threads,
            progress=config.progress,
        )
        (coded,) = tokenize(options, told=False)
        manifest = read_manifest(coded, tokens=base.tokens, tokenizer=base.tokenizer)
        store = base.encoders().store() if cached else None
        source = AudioSource(config.data.features, store, base.tokens.first)
        return ConversationDataset(manifest, base.tokenizer, source, for_generation=True)

    def _line(self, key: str, heard: Heard, piece: Piece) -> dict[str, Any]:
        """A piece as a line of a manifest, without an answer."""
        audio = {"content": str(heard.source.path), **piece.part.fields()}
        return {
            "id": key,
            "task_type": TASK,
            "conversation": [
                {"role": "user", "message_type": "text", "content": self.prompt},
                {"role": "user", "message_type": "audio", **audio},
            ],
        }


def _groups(heard: Sequence[Heard], known: KnownAnswers) -> Iterator[list[int]]:
    """Numbers of the recordings with pieces that are not decoded, some hours at a time."""
    group, seconds = list[int](), 0.0
    for number, one in enumerate(heard):
        missing = [piece.seconds for piece in one.pieces if piece.key not in known]
        if missing:
            group.append(number)
            seconds += sum(missing)
        if seconds >= _AT_A_TIME:
            yield group
            group, seconds = [], 0.0
    if group:
        yield group


def _transcribe_group(heard: list[Heard], group: Sequence[int], recogniser: Recogniser, folder: Path) -> float:
    """Decode some of the recordings, and note those that cannot be read; returns the seconds of audio decoded."""
    known = recogniser.known
    missing = {piece.key for number in group for piece in heard[number].pieces if piece.key not in known}
    uncoded = recogniser.without_codes(missing)
    some, readers = [heard[number] for number in group], recogniser.config.readers
    checked = in_threads(partial(readable, keys=uncoded), some, readers)
    for number, one in zip(group, checked, strict=True):
        heard[number] = one
    pieces = {piece.key: (one, piece) for one in checked for piece in one.pieces if piece.key in missing}
    if pieces:
        recogniser.answer(pieces, folder)
    return sum(piece.seconds for _, piece in pieces.values())


def _require_unchanged(heard: Iterator[Heard]) -> None:
    """ChangedError if a recording is not the one any more whose pieces' keys name its answers."""
    for one in heard:
        if file_digest(one.source.path) != one.digest:
            raise ChangedError(one.source.path, "while it was being transcribed")


def _is_done(heard: Heard, known: KnownAnswers) -> bool:
    return heard.problem is not None or all(piece.key in known for piece in heard.pieces)


def _write(config: TranscribeConfig, out: Path, heard: Sequence[Heard], known: KnownAnswers) -> None:
    rows = [row_of(one, [text_of(known[piece.key]) for piece in one.pieces], config.channel) for one in heard]
    write_outputs(out, rows, [one.source.name for one in heard], config.format, config.surest)
