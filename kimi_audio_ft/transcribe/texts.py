"""Answers to pieces of recordings, kept in the store by what is heard: nothing is decoded twice, in whatever folder.

One product for each adapter, prompt and decoding, ``transcript/<signature>/``, that only grows: every decoded batch is
appended to ``answers.jsonl``. A process that is killed loses the batch that it was decoding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kimi_audio_ft import store
from kimi_audio_ft.base import Base
from kimi_audio_ft.config.canonical import decoding_fields, transcript_form
from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.decoding.request import Answer, Answers, DecodingRequest
from kimi_audio_ft.files import append_jsonl, raise_if_full
from kimi_audio_ft.store.make import GROWS, META, write_meta
from kimi_audio_ft.store.signature import signature
from kimi_audio_ft.store.usage import note

_FILE = "answers.jsonl"


class KnownAnswers:
    """Answers by the keys of pieces, one for each request; those of the store, and what is added.

    Args:
        adapter: its signature; None for the base alone.
        requests: the repeats of one decoding setting.
        more: what else prompts depend on.
    """

    def __init__(
        self, base: Base, adapter: str | None, prompt: str, requests: Sequence[DecodingRequest], **more: Any
    ) -> None:
        first = requests[0]
        form = transcript_form(DataConfig(features=base.features), base.settings, first.setting)
        drawn = {"seed": first.seed, "repeats": len(requests)}
        inputs = {"adapter": adapter or "base", "prompt": prompt, "pieces": True, **drawn, **base.identities, **more}
        self.signature = signature("transcript", form, inputs)
        self._facts = {"inputs": inputs, "decoding": decoding_fields(first.setting), GROWS: True}
        self._path = store.product_path("transcript", self.signature) / _FILE
        note([("transcript", self.signature)])
        self._answers = self._read(len(requests))

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Sequence[Answer]:
        return self._answers[key]

    def add(self, new: Answers) -> None:
        """Take in a batch, and have it on the disk; a full one is a UserError."""
        rows = {key: [answers[key] for answers in new] for key in new[0]}
        self._answers |= rows
        try:
            with store.lock("transcript", self.signature):
                self._append(rows)
        except OSError as error:
            raise_if_full(error, self._path)
            raise

    def _append(self, rows: Mapping[str, Sequence[Answer]]) -> None:
        if not (self._path.parent / META).is_file():
            write_meta(self._path.parent, "transcript", self.signature, self._facts)
        append_jsonl(self._path, [_row(key, answers) for key, answers in rows.items()])

    def _read(self, repeats: int) -> dict[str, Sequence[Answer]]:
        found: dict[str, Sequence[Answer]] = {}
        if not self._path.is_file():
            return found
        with self._path.open("rb") as lines:
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):  # not a whole line
                    row = json.loads(line)
                    answers = [_answer(one) for one in row["answers"]]
                    if len(answers) == repeats:
                        found[row["key"]] = answers
        return found


def _row(key: str, answers: Sequence[Answer]) -> dict[str, Any]:
    fields = [
        {
            "text": str(answer),
            "log_probability": round(answer.log_probability, 4),
            "choices": answer.choices,
            **({"cut": True} if answer.is_cut else {}),
        }
        for answer in answers
    ]
    return {"key": key, "answers": fields}


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(row["text"], row.get("cut", False), row["log_probability"], row["choices"])
