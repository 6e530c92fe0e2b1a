"""Recordings as pieces that the model hears at once: whole where they are short, else cut at pauses or in windows.

A recording that cannot be read becomes one with its problem; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from threading import Event
from typing import TypeVar

from torch import Tensor

from kimi_audio_ft.config.transcribe import WINDOWS, TranscribeConfig
from kimi_audio_ft.manifest.audio import SAMPLE_RATE, AudioError, Recording, decode, open_recording, waveform_of
from kimi_audio_ft.manifest.part import Part
from kimi_audio_ft.store.cache import remember
from kimi_audio_ft.store.digests import file_digest, file_digests
from kimi_audio_ft.transcribe import cutting
from kimi_audio_ft.transcribe.progress import HoursBar
from kimi_audio_ft.transcribe.sources import Source
from kimi_audio_ft.transcribe.voice import FRAME, VoiceActivity, weights_file

# Raise it when the rules of cutting, or the network, change.
_CUTS_VERSION = 1
# Seconds of a recording in memory while its pauses are looked for; whole frames at every sample rate.
_BLOCK_SECONDS = 600
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording. key: digest of what is heard there, the same for the same content at any path."""

    part: Part
    key: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Heard:
    """A recording with its pieces in order; none where nobody speaks, or where it cannot be read.

    digest: of its file. problem: why it cannot be read, or None.
    """

    source: Source
    seconds: float = 0.0
    digest: str = ""
    pieces: tuple[Piece, ...] = ()
    problem: AudioError | None = None


def hear_all(sources: Sequence[Source], config: TranscribeConfig) -> list[Heard]:
    """Every recording with its pieces; ConfigError: pauses have to be found, and silero-vad is not installed."""
    lengths = in_threads(partial(_length, channel=config.channel), sources, config.readers)
    paths = [source.path for source, length in zip(sources, lengths, strict=True) if isinstance(length, float)]
    digests = file_digests(paths)
    heard = [
        Heard(source, length, next(digests)) if isinstance(length, float) else Heard(source, problem=length)
        for source, length in zip(sources, lengths, strict=True)
    ]
    cutter = Cutter(config.cut, config.max_seconds, config.channel)
    if any(one.seconds > config.max_seconds for one in heard):
        cutter.require_network()
    long = sum(one.seconds for one in heard if one.seconds > config.max_seconds)
    with HoursBar(long, config.progress and config.cut != WINDOWS and long > 0, "looking for pauses") as bar:

        def tell(one: Heard) -> None:
            if one.seconds > config.max_seconds:
                bar.add(one.seconds)

        return in_threads(cutter.cut, heard, config.readers, tell, cutter.stop.set)


def in_threads(
    work: Callable[[_Given], _Made],
    items: Iterable[_Given],
    count: int,
    tell: Callable[[_Made], None] = lambda made: None,
    stop: Callable[[], None] = lambda: None,
) -> list[_Made]:
    """``map`` in threads, without waiting for what is left when one fails: decoding lets others run.

    tell: called here with each result, in order, once it is there. stop: called when one fails, or at Ctrl-C, so that
    the others end early.
    """
    pool, found = ThreadPoolExecutor(count), list[_Made]()
    try:
        for made in pool.map(work, items):
            tell(made)
            found.append(made)
        return found
    except BaseException:
        stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _length(source: Source, channel: int | None) -> float | AudioError:
    """Seconds of a recording, by its header."""
    try:
        str(source.path).encode("utf-8")
        return open_recording(source.path, Part(channel=channel)).seconds
    except UnicodeEncodeError:
        name = ascii(str(source.path))
        return AudioError("missing_audio", name, "the bytes of its name are no UTF-8", "Rename the file")
    except AudioError as error:
        return error


@dataclass(frozen=True)
class Cutter:
    """Cuts recordings; how, longest, channel: the options ``cut``, ``max_seconds`` and ``channel``.

    kept: pauses that were found are kept in the store. stop: set to leave the search for pauses, in whatever thread.
    """

    how: str
    longest: float
    channel: int | None = None
    kept: bool = True
    stop: Event = field(default_factory=Event)

    def cut(self, heard: Heard, opened: Recording | None = None) -> Heard:
        """The recording with its pieces, or its problem. opened: the same recording, where it is open."""
        if heard.problem is not None:
            return heard
        try:
            parts = self._parts(heard, opened)
        except AudioError as error:
            return replace(heard, problem=error)
        ends = [(0.0 if part.start is None else part.start, part.end or heard.seconds) for part in parts]
        pieces = [
            Piece(part, part.digest(heard.digest), start, end) for part, (start, end) in zip(parts, ends, strict=True)
        ]
        return replace(heard, pieces=tuple(pieces))

    def _parts(self, heard: Heard, opened: Recording | None) -> list[Part]:
        if heard.seconds <= self.longest:
            return [Part(channel=self.channel)]
        if self.how == WINDOWS:
            bounds = cutting.windows(heard.seconds, self.longest)
        elif self.kept:
            facts = [_CUTS_VERSION, self._weights, heard.digest, self.channel, self.longest]
            bounds = [(start, end) for start, end in remember("cuts", facts, lambda: self._at_pauses(heard, opened))]
        else:
            bounds = self._at_pauses(heard, opened)
        return [Part(start, end, self.channel) for start, end in bounds]

    def _at_pauses(self, heard: Heard, opened: Recording | None) -> list[tuple[float, float]]:
        probabilities = self._network.probabilities(self._blocks(heard, opened))
        return cutting.at_pauses(probabilities, FRAME / SAMPLE_RATE, heard.seconds, self.longest)

    def _blocks(self, heard: Heard, opened: Recording | None) -> Iterator[Tensor]:
        start, recording = 0.0, opened or open_recording(heard.source.path)
        while start < heard.seconds:
            if self.stop.is_set():
                raise CancelledError
            end = min(start + _BLOCK_SECONDS, heard.seconds)
            yield waveform_of(recording.only(Part(start, end, self.channel)))
            start = end

    def require_network(self) -> None:
        """Read the network now, before threads ask for it; ConfigError: pauses need it, and it is not installed."""
        if self.how != WINDOWS:
            _ = self._network, self._weights

    @cached_property
    def _weights(self) -> str:
        return file_digest(weights_file())

    @cached_property
    def _network(self) -> VoiceActivity:
        return VoiceActivity.from_file(weights_file())


def readable(heard: Heard, keys: set[str]) -> Heard:
    """The recording as it is, or with its problem: the pieces with these keys are decoded to see whether they can be.

    Encoding stops at the first recording that cannot be decoded.
    """
    try:
        if parts := [piece.part for piece in heard.pieces if piece.key in keys]:
            recording = open_recording(heard.source.path)  # once: ffmpeg decodes the whole of it
            for part in parts:
                decode(recording.only(part))
    except AudioError as error:
        return replace(heard, pieces=(), problem=error)
    return heard
