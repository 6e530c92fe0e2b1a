"""One text out of several hypotheses: minimum Bayes risk decoding, with the edit distance for the loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.scoring.normalise import normalise


def consensus(hypotheses: Sequence[str], weights: Sequence[int] | None = None) -> str:
    """The hypothesis with the lowest weighted sum of edit distances to all; the earliest of equals.

    Edits are of characters of the strictly normalised texts, as in the CER. Put the most trusted first: of two
    hypotheses it is always the first.

    Args:
        weights: positive whole numbers, of which equal sums are equal; None: all alike.
    """
    texts, votes = [normalise(text) for text in hypotheses], Counter[str]()
    for text, weight in zip(texts, [1] * len(texts) if weights is None else weights, strict=True):
        votes[text] += weight
    risk = {one: sum(votes[other] * Levenshtein.distance(one, other) for other in votes) for one in votes}
    return hypotheses[texts.index(min(texts, key=risk.__getitem__))]
