"""One text out of several hypotheses: minimum Bayes risk decoding, with the edit distance for the loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from kimi_audio_ft.scoring.normalise import normalise

_Repeat = TypeVar("_Repeat")
_Said = TypeVar("_Said")


def index_of_consensus(hypotheses: Sequence[str], weights: Sequence[int] | None = None) -> int:
    """Index of the hypothesis with the lowest weighted sum of edit distances to all; the earliest of equals.

    Edits are of characters of the strictly normalised texts, as in the CER. Put the most trusted first: of two
    hypotheses it is always the first. The cost grows with the square of the number of different texts.

    Args:
        weights: positive whole numbers, of which equal sums are equal; None: all alike.
    """
    texts, votes = [normalise(text) for text in hypotheses], Counter[str]()
    for text, weight in zip(texts, [1] * len(texts) if weights is None else weights, strict=True):
        votes[text] += weight
    different = list(votes)
    if len(different) == 1:
        return 0
    distances = cdist(different, different, scorer=Levenshtein.distance, dtype=np.int64)
    risks = distances @ np.array(list(votes.values()), np.int64)
    return texts.index(different[int(risks.argmin())])


def vote(sources: Sequence[Sequence[Mapping[str, _Said]]], text_of: Callable[[_Said], str]) -> dict[str, _Said]:
    """Of every utterance, by its id, the consensus of all repeats of all sources, which weigh the same.

    Every repeat has all utterances.
    """
    repeats, weights = equal_votes(sources)
    found = {}
    for key in repeats[0]:
        said = [repeat[key] for repeat in repeats]
        found[key] = said[index_of_consensus([text_of(one) for one in said], weights)]
    return found


def equal_votes(sources: Sequence[Sequence[_Repeat]]) -> tuple[list[_Repeat], list[int]]:
    """The repeats of all sources one after the other, and weights by which every source has the same in all."""
    whole = math.lcm(*map(len, sources))
    repeats = [repeat for source in sources for repeat in source]
    return repeats, [whole // len(source) for source in sources for _ in source]


def is_vote(repeats: Sequence[int]) -> bool:
    """Whether sources with so many repeats have anything to decide: a text with half of the weight always wins.

    Two texts are none, nor are many samples and one text of another source.
    """
    return len(repeats) * min(repeats, default=0) > 2
