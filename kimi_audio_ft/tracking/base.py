"""What every record of a trial can do, and the one that records nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Utterance = Mapping[str, Any]
"""One line of ``utterances.jsonl``: id, repeat, reference, hypothesis, cer and audio (a path, or None)."""


class Tracker(Protocol):
    """One trial's record: points while it runs, then either ``finish`` or ``fail``, once."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values, such as ``train/loss``, at an optimizer step; steps may repeat or start again."""

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        """Record the final scores and the transcripts, and close the record."""

    def fail(self, message: str) -> None:
        """Close the record of a trial that broke, with the reason."""


class TrackerSettings(Protocol):
    """The fields of the config group ``logger`` that this package reads."""

    @property
    def kind(self) -> str:
        """wandb, csv or none."""

    @property
    def project(self) -> str:
        """W&B project."""

    @property
    def entity(self) -> str | None:
        """W&B user or team; None for the account's default."""

    @property
    def mode(self) -> str:
        """auto, online or offline."""

    @property
    def tags(self) -> Sequence[str]:
        """Tags of the W&B run."""

    @property
    def utterance_rows(self) -> int:
        """Largest number of rows in the table of utterances; 0 for no table."""

    @property
    def audio(self) -> bool:
        """Whether the table carries the recordings."""


class NullTracker:
    """Records nothing; the trial's own files hold the scores anyway."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Drop the values."""

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        """Drop the scores."""

    def fail(self, message: str) -> None:
        """Drop the message."""
