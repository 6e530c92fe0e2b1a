"""The text of several that minimum Bayes risk decoding chooses."""

from __future__ import annotations

from collections.abc import Sequence

from kimi_audio_ft.scoring.consensus import index_of_consensus


def consensus(texts: Sequence[str], weights: Sequence[int] | None = None) -> str:
    """One of the texts; arguments of ``index_of_consensus``."""
    return texts[index_of_consensus(texts, weights)]
