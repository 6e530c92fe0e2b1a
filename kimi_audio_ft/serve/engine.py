"""The model in one thread, which decodes pieces of simultaneous requests in common batches.

Pieces that share an adapter and a decoding setting are decoded together. The first pieces of recordings go before
later ones of others, so that short recordings do not wait for the end of long ones; and a piece that has waited goes
before those that come later, so that long ones end however many short ones come.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import torch
from torch import Tensor

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.data.dataset import Sample
from kimi_audio_ft.decoding.budget import together_here
from kimi_audio_ft.decoding.request import Answer, DecodingRequest
from kimi_audio_ft.decoding.transcribe import answer
from kimi_audio_ft.manifest.conversation import TASK, layout_conversation

log = logging.getLogger(__name__)

# Positions of the longest prompts: 30 s of codes, and hot words. Pieces that are decoded together at most.
_PROMPT, _MOST = 1024, 64


@dataclass(eq=False)
class Job:
    """A piece to decode. key: digest of what is heard, from which samples are drawn. number: of the piece, from 0.

    waveform: ``[samples]`` at 16 kHz. answers: one for each request, once it is decoded. turn, arrival: numbers of the
    batch that came next, and of the job, when it was submitted.
    """

    key: str
    number: int
    waveform: Tensor
    adapter: Path | None
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


def pieces_together(base: Base, setting: DecodingConfig) -> int:
    """Most pieces in a batch, for all of which each request in it waits."""
    return together_here(base, setting, _PROMPT, _MOST)


class Engine:
    """Decodes jobs from any thread; as a context manager it holds the model and the thread.

    Attributes:
        batches, decoded: batches and jobs that have been decoded. failed_in_a_row: batches that could not be, since the
            last one that could.

    Args:
        batch_size: most jobs in a batch.
    """

    def __init__(self, base: Base, batch_size: int) -> None:
        self._base, self._batch_size = base, batch_size
        self._waiting: list[Job] = []
        self._changed, self._closed, self._arrivals = Condition(), False, count()
        self._thread = Thread(target=self._work, name="decoding", daemon=True)
        self._turn = 0
        self.batches = self.decoded = self.failed_in_a_row = 0

    def __enter__(self) -> Engine:
        self._base.about_to_compute()
        self._base.load()
        _ = self._encoders
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End after the batch that is being decoded; jobs that wait are cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
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
        current: Path | None = None
        with ExitStack() as held:
            model: torch.nn.Module | None = None
            while batch := self._next():
                try:
                    if model is None or batch[0].adapter != current:
                        model = None
                        held.close()
                        current = batch[0].adapter
                        model = held.enter_context(self._base.saved_adapter(current))
                    found = self._decoded(model, batch)
                except Exception as error:
                    self.failed_in_a_row += 1
                    log.exception("a batch of %d pieces could not be decoded", len(batch))
                    for job in batch:
                        job.answers.set_exception(error)
                else:
                    self.failed_in_a_row = 0
                    for job, answers in zip(batch, found, strict=True):
                        job.answers.set_result(answers)

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

    def _decoded(self, model: torch.nn.Module, batch: Sequence[Job]) -> list[list[Answer]]:
        base, first = self._base, batch[0]
        samples = [self._sample(job, *encoded) for job, encoded in zip(batch, self._encoded(batch), strict=True)]
        once = {sample.id: sample for sample in samples}  # two requests may have the same recording
        online = base.features == "online"
        given = (base.tokenizer, first.requests, base.tokens.first, online, True)
        found = answer(model, list(once.values()), *given)
        self.batches, self.decoded = self.batches + 1, self.decoded + len(batch)
        return [[answers[job.key] for answers in found] for job in batch]

    @cached_property
    def _encoders(self) -> tuple[Any, Any]:
        return self._base.encoders().load()

    def _encoded(self, batch: Sequence[Job]) -> list[tuple[list[int], Tensor | None]]:
        """Codes and features of each piece; no features where the model computes them, or hears codes only."""
        tokenizer, whisper = self._encoders
        waveforms = [job.waveform for job in batch]
        codes = tokenizer.encode(waveforms, len(batch))
        features = [None] * len(batch) if whisper is None else whisper.encode(waveforms, len(batch))
        return [(row.tolist(), rows) for row, rows in zip(codes, features, strict=True)]

    def _sample(self, job: Job, codes: Sequence[int], features: Tensor | None) -> Sample:
        first = self._base.tokens.first
        messages: list[dict[str, Any]] = [
            {"role": "user", "message_type": "text", "content": job.prompt},
            {"role": "user", "message_type": "audio", "audio_tokens": [code + first for code in codes]},
        ]
        layout = layout_conversation(messages, self._base.tokenizer, TASK, for_generation=True)
        online = self._base.features == "online"
        return Sample(
            job.key,
            layout,
            features=None if features is None else [features],
            waveforms=[job.waveform] if online else [],
        )


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.answers.cancel()
