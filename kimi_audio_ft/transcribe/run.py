"""Transcription: recordings to pieces, pieces to answers, answers to texts.

Some hours of audio at a time are encoded, decoded and written. Codes, features and answers are kept in the store by
what is heard, so that a run that was killed goes on where it was, and further recordings cost only themselves.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kimi_audio_ft.base import Base, find_adapter, require_base
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.transcribe import TranscribeConfig
from kimi_audio_ft.data.dataset import AudioSource, ConversationDataset
from kimi_audio_ft.decoding.kept import vllm_kept
from kimi_audio_ft.decoding.request import Answers, DecodingRequest
from kimi_audio_ft.decoding.retrieval import RETRIEVAL, most_alike
from kimi_audio_ft.decoding.shares import Work, decode_shared
from kimi_audio_ft.decoding.vllm_process import require_vllm
from kimi_audio_ft.errors import ChangedError, ConfigError, DataError, UserError
from kimi_audio_ft.features.perturbation import UNCHANGED
from kimi_audio_ft.features.tokenize import tokenize
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest.audio import AudioError
from kimi_audio_ft.manifest.conversation import TASK
from kimi_audio_ft.manifest.hotwords import require_room, with_words
from kimi_audio_ft.manifest.manifest import read_manifest
from kimi_audio_ft.runtime.devices import gpu_freed, num_processes, refuse_launchers
from kimi_audio_ft.runtime.signals import StopRequest
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.sweep_folder import claim
from kimi_audio_ft.text import printable
from kimi_audio_ft.transcribe.confidence import text_of
from kimi_audio_ft.transcribe.outputs import JSONL, Outputs, row_of, seconds_of_texts, surest_of
from kimi_audio_ft.transcribe.pieces import Heard, Piece, hear_all, in_threads, readable
from kimi_audio_ft.transcribe.progress import HoursBar
from kimi_audio_ft.transcribe.prompts import prompt_of, words_for
from kimi_audio_ft.transcribe.sources import find_recordings
from kimi_audio_ft.transcribe.texts import KnownAnswers

# Seconds of audio that are encoded, decoded and written at a time: 10 hours, whose features take 4.6 GB for the 7B.
_AT_A_TIME = 36_000.0
_Pieces = Mapping[str, tuple[Heard, Piece]]
# Scratch in the folder of the texts: the manifest of what is being decoded.
_WORK = ".pieces"


@dataclass(frozen=True)
class Transcribed:
    """What a run has done.

    seconds, decoded: of audio in all, and of that what this run has decoded; took: seconds for it. failed: recordings
    without text. silent: number of those in which nobody speaks. texts, surest: seconds of the pieces that have a whole
    text, and of those in surest.csv. file: transcripts.jsonl.
    """

    recordings: int
    seconds: float
    decoded: float
    took: float
    failed: Sequence[Heard]
    silent: int
    texts: float
    surest: float | None
    file: Path


def transcribe(config: TranscribeConfig) -> Transcribed:
    """Write the texts of all recordings that the options name.

    Raises:
        UserError: an option or the adapter cannot be used, no recording can be read, or people have edited a file that
            would be written.
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
        outputs = Outputs(out, [source.name for source in sources], config.format, config.surest)
        outputs.require_unedited()
        print(f"looking at {len(sources)} recordings", flush=True)
        heard = hear_all(sources, config)
        started, decoded = time.monotonic(), 0.0
        try:
            for group in _groups(heard, recogniser.known):
                decoded += _transcribe_group(heard, group, recogniser, out / _WORK)
                outputs.add(_new_rows(heard, outputs, recogniser))
        finally:
            shutil.rmtree(out / _WORK, ignore_errors=True)
        took = time.monotonic() - started
        outputs.add(_new_rows(heard, outputs, recogniser))
        outputs.require_unedited()
    failed = [one for one in heard if one.problem is not None]
    if len(failed) == len(heard):
        raise UserError(f"none of {len(heard)} recordings can be transcribed. The first: {failed[0].problem}")
    surest = None if config.surest is None else seconds_of_texts(surest_of(outputs.rows, config.surest))
    return Transcribed(
        recordings=len(heard),
        seconds=sum(one.seconds for one in heard),
        decoded=decoded,
        took=took,
        failed=failed,
        silent=sum(one.problem is None and not one.pieces for one in heard),
        texts=seconds_of_texts(outputs.rows),
        surest=surest,
        file=out / JSONL,
    )


@dataclass(frozen=True)
class Recogniser:
    """A base with an adapter (its signature and folder) or alone, and how it is asked.

    requests: the repeats of the decoding setting. known: answers that the store has. first: answers to the prompt
    without hot words, which choose those of every piece; None: the prompt has all of them, or there are none.
    """

    config: TranscribeConfig
    base: Base
    adapter: tuple[str, Path] | None
    prompt: str
    requests: Sequence[DecodingRequest]
    known: KnownAnswers
    words: Sequence[str] = ()
    first: KnownAnswers | None = None

    @classmethod
    def of(cls, config: TranscribeConfig) -> Recogniser:
        """The recogniser that the options name, without any weight read; says which prompt it has."""
        require_vllm(config.decoding)
        base = Base(config.model, config.data.features, threads=config.threads)
        base.about_to_compute()
        adapter = find_adapter(config.adapter)
        if adapter:
            require_base(base, adapter[1], config.any_base)
            base.saved_targets(adapter[1])  # now, and not after hours of encoding
        name, place = adapter or (None, None)
        prompt, words = prompt_of(config.data.prompt, place, base.files.root), words_for(config.prompt, place)
        require_room(config.prompt, base.tokenizer, base.positions, prompt)
        requests, first = DecodingRequest(config.decoding, config.seed).repeats(vocabulary=base.tokens.end), None
        most, more = config.prompt.retrieve, {}
        told = printable(prompt) + (f", {len(words)} hot words" if words else "")
        if words and most is not None:
            told += f", of which a piece has at most {most}"
            first = KnownAnswers(base, name, prompt, [DecodingRequest.first_pass(config.decoding)])
            more = {"retrieved": [RETRIEVAL, most, *words]}
        else:
            prompt = with_words(prompt, words)
        print(f"{f'adapter {name}' if name else 'the base alone'}, prompt {told}", flush=True)
        known = KnownAnswers(base, name, prompt, requests, **more)
        return cls(config, base, adapter, prompt, requests, known, words, first)

    def without_codes(self, keys: set[str]) -> set[str]:
        """Those of the keys of pieces whose codes, or features, the store lacks."""
        store = self.base.encoders().store()
        return {key for key in keys if UNCHANGED.key(key) not in store}

    @gpu_freed()
    @vllm_kept()  # for both passes; between the groups the encoders need the GPU
    def answer(self, pieces: _Pieces, folder: Path) -> None:
        """Encode and decode pieces by their keys; the answers are then known."""
        if self.first is not None:
            left = {key: place for key, place in pieces.items() if key not in self.first}
            requests = [DecodingRequest.first_pass(self.config.decoding)]
            plain = replace(self, requests=requests, known=self.first, first=None)
            if left:
                plain.answer(left, folder)
        prompts, adapter = self._prompts(pieces, folder), self.adapter[1] if self.adapter else None
        work = Work(self.base, adapter, prompts, self.requests, progress=False, likelihoods=True)
        visible, seconds = self.config.progress, sum(piece.seconds for _, piece in pieces.values())
        with StopRequest() as stop, HoursBar(seconds, visible) as bar:

            def take(new: Answers) -> None:
                _require_unchanged(pieces[key][0] for key in new[0])
                self.known.add(new)
                bar.add(sum(pieces[key][1].seconds for key in new[0]))

            decode_shared(work, [{} for _ in self.requests], num_processes(self.config.devices), take, stop)

    def _prompt_of(self, key: str) -> str:
        most = self.config.prompt.retrieve
        if self.first is None or most is None:
            return self.prompt
        return with_words(self.prompt, most_alike(self.words, self.first[key][0], most))

    def _prompts(self, pieces: _Pieces, folder: Path) -> ConversationDataset:
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
        (coded,) = tokenize(options, list_outputs=False)
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
                {"role": "user", "message_type": "text", "content": self._prompt_of(key)},
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
    known, readers = recogniser.known, recogniser.config.readers
    wanted = {piece.key: piece.seconds for n in group for piece in heard[n].pieces if piece.key not in known}
    keys, changed = recogniser.without_codes(set(wanted)), True
    while changed:
        _check(heard, group, partial(readable, keys=keys), readers)
        pieces = {piece.key: (heard[n], piece) for n in group for piece in heard[n].pieces if piece.key not in known}
        try:
            if pieces:
                recogniser.answer(pieces, folder)
            changed = False
        except Exception as error:
            # Of a recording that has changed the store lacks the codes, and in another process nobody knows what fails.
            keys = set(pieces) if isinstance(error, DataError) else set()
            changed = _check(heard, group, partial(_as_it_was, missing=set(pieces), keys=keys), readers)
            keys = set()  # they have been read now
            if not changed:  # no recording is at fault
                raise
    return sum(seconds for key, seconds in wanted.items() if key in known)


def _check(heard: list[Heard], group: Sequence[int], look: Callable[[Heard], Heard], readers: int) -> bool:
    """Look at some of the recordings, in threads; returns whether any has a new problem."""
    looked = in_threads(look, [heard[number] for number in group], readers)
    found = any(one.problem is not heard[number].problem for number, one in zip(group, looked, strict=True))
    for number, one in zip(group, looked, strict=True):
        heard[number] = one
    return found


def _as_it_was(heard: Heard, missing: set[str], keys: set[str]) -> Heard:
    """The recording, or its problem: it has changed or vanished since its pieces were found, or cannot be decoded.

    Args:
        missing: keys of pieces without answers; what has them all may change. keys: of those to decode.
    """
    if not any(piece.key in missing for piece in heard.pieces):
        return heard
    try:
        if file_digest(heard.source.path) == heard.digest:
            return readable(heard, keys)
        problem = "it changed while it was being transcribed"
    except DataError as error:
        problem = f"{error.problem} while it was being transcribed"
    found = AudioError("changed_audio", heard.source.path, problem, "Run the command again")
    return replace(heard, pieces=(), problem=found)


def _require_unchanged(heard: Iterator[Heard]) -> None:
    """ChangedError if a recording is not the one any more whose pieces' keys name its answers."""
    for one in heard:
        if file_digest(one.source.path) != one.digest:
            raise ChangedError(one.source.path, "while it was being transcribed")


def _new_rows(heard: Sequence[Heard], outputs: Outputs, recogniser: Recogniser) -> dict[int, dict[str, Any]]:
    """Lines of transcripts.jsonl, by number, of the recordings that are done and not written."""
    known, channel = recogniser.known, recogniser.config.channel
    return {
        number: row_of(one, [text_of(known[piece.key]) for piece in one.pieces], channel)
        for number, one in enumerate(heard)
        if number not in outputs and all(piece.key in known for piece in one.pieces)
    }
