"""Which characters of a hypothesis stand for which of its reference: the alignment that strict scores count."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.scoring.spans import Span


@dataclass(frozen=True)
class Edit:
    """One edit of an alignment: ``kind`` is replace, delete or insert.

    reference: place of the character that was replaced or deleted, or in front of which one was inserted.
    hypothesis: place of the character that replaced it or was inserted, or in front of which one was deleted.
    """

    kind: str
    reference: int
    hypothesis: int


class Alignment:
    """Two texts, the fewest edits between them, and how places in one map onto the other."""

    def __init__(self, reference: str, hypothesis: str) -> None:
        self.reference, self.hypothesis = reference, hypothesis
        self.edits = [Edit(*edit) for edit in Levenshtein.editops(reference, hypothesis).as_list()]
        # Places between characters that stand for each other, in both texts: pairs that grow in both.
        pairs = {(0, 0), (len(reference), len(hypothesis))}
        for code in Levenshtein.opcodes(reference, hypothesis):
            if code.tag in ("equal", "replace"):
                pairs |= {(code.src_start + k, code.dest_start + k) for k in range(code.src_end - code.src_start + 1)}
            else:
                pairs |= {(place, code.dest_start) for place in range(code.src_start, code.src_end + 1)}
                pairs |= {(code.src_end, place) for place in range(code.dest_start, code.dest_end + 1)}
        ordered = sorted(pairs)
        self._reference, self._hypothesis = [r for r, _ in ordered], [h for _, h in ordered]

    def in_hypothesis(self, span: Span) -> Span:
        """The widest span of the hypothesis that stands for a span of the reference."""
        return _mapped(span, self._reference, self._hypothesis)

    def in_reference(self, span: Span) -> Span:
        """The widest span of the reference that a span of the hypothesis stands for."""
        return _mapped(span, self._hypothesis, self._reference)


def _mapped(span: Span, places: Sequence[int], others: Sequence[int]) -> Span:
    return others[bisect_left(places, span[0])], others[bisect_right(places, span[1]) - 1]
