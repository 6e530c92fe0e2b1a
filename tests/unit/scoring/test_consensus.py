"""One text out of several hypotheses."""

from __future__ import annotations

import random

import pytest
from rapidfuzz.distance import Levenshtein

from tests.consensus import consensus


@pytest.mark.parametrize(
    ("hypotheses", "weights", "expected"),
    [
        (["axcd", "abcd", "abcx"], None, "abcd"),  # 3, 2 and 3 edits
        (["axcd", "abcd", "abcx"], [5, 1, 1], "axcd"),  # 3, 6 and 11
        (["ab", "abc"], None, "ab"),  # of two the first, whatever they are
        (["", "今天", "今天"], None, "今天"),
        (["坏", " 你好", "你好"], None, " 你好"),  # one text as the CER counts, given back as it was written
        (["一"], None, "一"),
    ],
)
def test_the_lowest_sum_of_edits(hypotheses: list[str], weights: list[int] | None, expected: str) -> None:
    assert consensus(hypotheses, weights) == expected


def test_equal_texts_are_counted_once_and_weigh_as_often_as_they_are_there() -> None:
    rng = random.Random(1)
    for _ in range(50):
        texts = ["".join(rng.choices("天地人", k=rng.randint(0, 4))) for _ in range(8)]
        weights = [rng.randint(1, 3) for _ in texts]
        weighed = list(zip(texts, weights, strict=True))
        sums = [sum(weight * Levenshtein.distance(one, other) for other, weight in weighed) for one in texts]
        assert consensus(texts, weights) == texts[sums.index(min(sums))]
