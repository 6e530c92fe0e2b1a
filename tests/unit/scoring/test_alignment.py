from __future__ import annotations

import random

import jiwer
import pytest

from kimi_audio_ft.scoring import score
from kimi_audio_ft.scoring.error_rates import Alignment


def test_places_map_onto_the_other_text() -> None:
    alignment = Alignment("我本来7000万", "我本来的七千万")
    assert alignment.in_hypothesis((3, 8)) == (3, 7)  # 7000万: 的七千万
    assert alignment.in_reference((4, 7)) == (4, 8)
    assert alignment.in_hypothesis((0, 3)) == (0, 3)


def test_what_was_inserted_at_an_edge_belongs_to_both_sides() -> None:
    alignment = Alignment("甲乙", "甲丙丙乙")
    assert alignment.in_hypothesis((0, 1)) == (0, 3) and alignment.in_hypothesis((1, 2)) == (1, 4)
    assert alignment.in_reference((1, 3)) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_edits_are_those_of_the_score_and_of_jiwer(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        reference = "".join(rng.choices("甲乙丙ab", k=rng.randrange(1, 12)))
        hypothesis = "".join(rng.choices("甲乙丙ab", k=rng.randrange(1, 12)))
        kinds = [edit.kind for edit in Alignment(reference, hypothesis).edits]
        ours = [kinds.count(kind) for kind in ("replace", "delete", "insert")]
        counted, theirs = score({"a": reference}, {"a": hypothesis}), jiwer.process_characters(reference, hypothesis)
        assert ours == [counted[key] for key in ("substitutions", "deletions", "insertions")]
        assert ours == [theirs.substitutions, theirs.deletions, theirs.insertions]


def test_empty_sides() -> None:
    assert Alignment("", "").edits == [] and Alignment("", "").in_hypothesis((0, 0)) == (0, 0)
    assert Alignment("甲乙", "").in_hypothesis((0, 2)) == (0, 0)
    assert Alignment("", "甲乙").in_reference((0, 2)) == (0, 0)
