"""The queue between requests and what decodes: pieces of simultaneous requests in common batches, in a thread.

Pieces that share an adapter and a decoding setting are decoded together. The first pieces of recordings go before
later ones of others, so that short recordings do not wait for the end of long ones; and a piece that has waited goes
before those that come later, so that long ones end however many short ones come.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from threading import Condition, Lock, Thread
from typing import Protocol

from torch import Tensor

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.budget import together_here
from kimi_audio_ft.decoding.request import Answer, DecodingRequest
from kimi_audio_ft.errors import ConfigError, UserError

log = logging.getLogger(__name__)

# Positions of the longest prompts, of 30 s of codes and the hot words of a request, and of those without hot words.
_PROMPT, _WITHOUT_WORDS = 1024, 512
# Pieces that are decoded together at most.
_MOST = 64


@dataclass(eq=False)
class Job:
    """A piece to decode. key: digest of what is heard, from which samples are drawn. number: of the piece, from 0.

    waveform: ``[samples]`` at 16 kHz. adapter: its folder, or its name at a vLLM server; None: the base alone. answers:
    one for each request, once it is decoded. turn, arrival: numbers of the batch that came next, and of the job, when
    it was submitted.
    """

    key: str
    number: int
    waveform: Tensor
    adapter: str | None
    prompt: str
    requests: Sequence[DecodingRequest]
    answers: Future[list[Answer]] = field(default_factory=Future)
    turn: int = -1
    arrival: int = -1

    @property
    def order(self) -> tuple[int, int]:
        """By the turn at which it would be decoded if each batch took a piece of its recording."""
        return self.turn + self.number, self.arrival

    def fits(self, other: Job) -> bool:
        """Whether both can be in one batch, whose answers are told apart by their keys."""
        alike = self.adapter == other.adapter and list(self.requests) == list(other.requests)
        return alike and (self.key != other.key or self.prompt == other.prompt)


def pieces_together(base: Base, batch_size: int | str, settings: Iterable[DecodingConfig], words: int = 0) -> int:
    """Most pieces in a batch, for all of which each request in it waits: for the models' settings, whichever it has.

    Args:
        batch_size: ``decoding.batch_size``, the same for all. words: positions of a model's own hot words.
    """
    # A request's own temperature has a greedy setting sampled, as often as its repeats say.
    sampled = [replace(one, batch_size=batch_size, text_temperature=one.text_temperature or 1.0) for one in settings]
    prompt = max(_PROMPT, _WITHOUT_WORDS + words)
    return min(together_here(base, one, prompt, _MOST) for one in sampled)


class RequestRefused(UserError):
    """A request that cannot be answered, by what it asks for.

    option: the field at fault; status: of HTTP; code: OpenAI's word for it.
    """

    def __init__(self, message: str, option: str | None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.option, self.status, self.code = option, status, code


class Unavailable(ConfigError):
    """What decodes cannot be used now, and may be later. rule: what is wrong with it, without its address."""

    def __init__(self, option: str, value: object, rule: str, remedy: str) -> None:
        super().__init__(option, value, rule, remedy)
        self.rule = rule


class Decoder(Protocol):
    """Decodes batches; as a context manager it holds the model. It is asked from one thread at a time."""

    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> None:
        """End when all that was handed over is answered."""

    def decode(self, batch: Sequence[Job]) -> Sequence[Future[list[Answer]]]:
        """The answers to each job, now or later. It may wait until there is room for the batch."""

    def trouble(self) -> str | None:
        """Why nothing can be decoded now; None: nothing is known of that. From any thread."""


class BatchQueue:
    """Has jobs from any thread decoded; as a context manager it holds the decoder and the thread.

    Attributes:
        decoder: what decodes.
        batches, decoded: batches that were handed over, and jobs that have been decoded. failed_in_a_row: batches, or
            pieces where each is answered by itself, that failed since the last one that did not, though the decoder
            was there and refused none of them.

    Args:
        batch_size: most jobs in a batch.
    """

    def __init__(self, decoder: Decoder, batch_size: int) -> None:
        self.decoder, self._batch_size = decoder, batch_size
        self._waiting: list[Job] = []
        self._changed, self._closed, self._arrivals = Condition(), False, count()
        self._thread = Thread(target=self._work, name="decoding", daemon=True)
        self._turn, self._counting = 0, Lock()
        self.batches = self.decoded = self.failed_in_a_row = 0

    def __enter__(self) -> BatchQueue:
        self.decoder.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End after the batch that is being decoded; jobs that wait are cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self.decoder.__exit__(*error)
        _cancel(self._waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have jobs decoded; a job whose future is cancelled before its turn costs nothing. At the end all are."""
        with self._changed:
            if self._closed:
                _cancel(jobs)
                return
            for job in jobs:
                job.turn, job.arrival = self._turn, next(self._arrivals)
            self._waiting += jobs
            self._changed.notify_all()

    def _work(self) -> None:
        while batch := self._next():
            try:
                found = self.decoder.decode(batch)
            except Exception as error:
                self._count(len(batch), error)
                for job in batch:
                    job.answers.set_exception(error)
            else:
                self.batches += 1
                for job, answers in zip(batch, found, strict=True):
                    answers.add_done_callback(partial(self._settle, job))

    def _settle(self, job: Job, found: Future[list[Answer]]) -> None:
        error = found.exception()
        self._count(1, error)
        if error is None:
            job.answers.set_result(found.result())
        else:
            job.answers.set_exception(error)

    def _count(self, pieces: int, error: BaseException | None) -> None:
        with self._counting:
            if error is None:
                self.decoded, self.failed_in_a_row = self.decoded + pieces, 0
            elif not isinstance(error, Unavailable | RequestRefused):  # of the first the decoder itself tells, once
                self.failed_in_a_row += 1
                log.error("a batch of %d pieces could not be decoded", pieces, exc_info=error)

    def _next(self) -> list[Job]:
        """The jobs of the next batch, when there are some; none at the end."""
        with self._changed:
            while True:
                self._waiting = [job for job in self._waiting if not job.answers.cancelled()]
                if self._closed:
                    return []
                if self._waiting:
                    break
                self._changed.wait()
            fitting: list[Job] = []
            for job in sorted(self._waiting, key=lambda job: job.order):
                if len(fitting) < self._batch_size and all(map(job.fits, fitting)):
                    fitting.append(job)
            batch = [job for job in fitting if job.answers.set_running_or_notify_cancel()]
            self._waiting = [job for job in self._waiting if job not in fitting]
            self._turn += 1
        return batch or self._next()


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.answers.cancel()
