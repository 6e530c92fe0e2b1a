"""Pieces of recordings to generation prompts, by the two encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kimi_audio_ft.base import Base
from kimi_audio_ft.data.dataset import Sample
from kimi_audio_ft.manifest.conversation import TASK, layout_conversation
from kimi_audio_ft.serve.batch_queue import Job


class FrontEnd:
    """The encoders of a base, in memory."""

    def __init__(self, base: Base) -> None:
        self._base, self._online = base, base.features == "online"
        self._tokenizer, self._whisper = base.encoders().load()

    def samples(self, jobs: Sequence[Job]) -> list[Sample]:
        """The prompt of each job, with its features unless the model computes them or hears codes only."""
        waveforms = [job.waveform for job in jobs]
        codes = self._tokenizer.encode(waveforms)
        features = [None] * len(jobs) if self._whisper is None else self._whisper.encode(waveforms)
        encoded = zip(jobs, codes, features, strict=True)
        return [self._sample(job, row.tolist(), rows) for job, row, rows in encoded]

    def _sample(self, job: Job, codes: Sequence[int], features: Tensor | None) -> Sample:
        first = self._base.tokens.first
        messages: list[dict[str, Any]] = [
            {"role": "user", "message_type": "text", "content": job.prompt},
            {"role": "user", "message_type": "audio", "audio_tokens": [code + first for code in codes]},
        ]
        layout = layout_conversation(messages, self._base.tokenizer, TASK, for_generation=True)
        given = None if features is None else [features]
        return Sample(job.key, layout, features=given, waveforms=[job.waveform] if self._online else [])
