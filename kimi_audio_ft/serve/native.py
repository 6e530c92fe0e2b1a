"""Batches decoded by the model in this process; a change of adapter reads its file."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import torch

from kimi_audio_ft.base import Base
from kimi_audio_ft.decoding.request import Answer
from kimi_audio_ft.decoding.transcribe import answer
from kimi_audio_ft.serve.batch_queue import Job
from kimi_audio_ft.serve.front_end import FrontEnd


class Native:
    """The base in memory, with one adapter at a time."""

    def __init__(self, base: Base) -> None:
        self._base, self._held = base, ExitStack()
        self._model: torch.nn.Module | None = None
        self._adapter: str | None = None

    def __enter__(self) -> None:
        self._base.about_to_compute()
        self._base.load()
        self._front_end = FrontEnd(self._base)

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def trouble(self) -> None:
        return None

    def decode(self, batch: Sequence[Job]) -> list[Future[list[Answer]]]:
        base, first = self._base, batch[0]
        model = self._with_adapter(first.adapter)
        once = {sample.id: sample for sample in self._front_end.samples(batch)}  # two may have the same recording
        online = base.features == "online"
        found = answer(
            model, list(once.values()), base.tokenizer, first.requests, base.tokens.first, online, likelihoods=True
        )
        return [_known([answers[job.key] for answers in found]) for job in batch]

    def _with_adapter(self, adapter: str | None) -> torch.nn.Module:
        if self._model is None or adapter != self._adapter:
            self._model = None
            self._held.close()
            folder = None if adapter is None else Path(adapter)
            self._model, self._adapter = self._held.enter_context(self._base.saved_adapter(folder)), adapter
        return self._model


def _known(answers: list[Answer]) -> Future[list[Answer]]:
    found: Future[list[Answer]] = Future()
    found.set_result(answers)
    return found
