"""Error categories: each edit of the strict alignment has exactly one.

The rules, tried in this order; "in" a word means that the edit's character of the reference or of the hypothesis
belongs to it, or that a character was dropped or added between two of its characters:

1.  ``punctuation``: only marks and white space are concerned, and none of them is inside a number;
2.  ``person_name``: in a name of the user's list, or in a surname with a title (吴总, 张老师, 老王);
3.  ``domain_term``: in a term of the user's list;
4.  ``abbreviation``: in a word of Latin letters, with its digits (OK, LPL, 5G): abbreviations and code-switching;
5.  ``number_format``: in a number that has the same value on the other side (7000万 for 七千万);
6.  ``number_value``: in any other number;
7.  ``filler``: dropped or added, and all letters that were dropped or added together with it make filler words;
8.  ``homophone_same_tone``: one Han character for another that can be read alike (在 for 再);
9.  ``homophone_other_tone``: the same with another tone (买 for 卖);
10. ``other``.

Names, terms, Latin words and numbers are looked for on both sides. A Han character that is replaced by a mark counts
as one that was dropped. The counts add up to substitutions + deletions + insertions of the strict score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby

import regex

from kimi_audio_ft.scoring.error_rates import Alignment, Edit, readings
from kimi_audio_ft.scoring.normalise import FILLER_SOUNDS, FILLER_WORDS, normalise
from kimi_audio_ft.scoring.spans import Span, covered, latin_spans, number_spans, titled_names, word_spans
from kimi_audio_ft.scoring.terms import ScoringOptions

CATEGORIES = (
    "punctuation",
    "person_name",
    "domain_term",
    "abbreviation",
    "number_format",
    "number_value",
    "filler",
    "homophone_same_tone",
    "homophone_other_tone",
    "other",
)
_LETTERS = regex.compile(r"[\p{L}\p{M}\p{N}]")


def categorised_edits(
    reference: str, hypothesis: str, options: ScoringOptions | None = None
) -> tuple[list[tuple[Edit, str]], Alignment]:
    """Every edit between two transcripts, in order, with its category; and the alignment of their strict texts."""
    alignment = Alignment(normalise(reference), normalise(hypothesis))
    judge = _Judge(alignment, options or ScoringOptions())
    return [(edit, judge.category(edit)) for edit in alignment.edits], alignment


@lru_cache(maxsize=100_000)
def category_counts(reference: str, hypothesis: str, options: ScoringOptions) -> Counter[str]:
    """Number of edits by category, without empty categories. Memoised: do not change the result."""
    edits, _ = categorised_edits(reference, hypothesis, options)
    return Counter(category for _, category in edits)


def _words(text: str, options: ScoringOptions) -> dict[str, set[int]]:
    """Indices of the characters of a text's names, terms and Latin words, by category in the order of the rules."""
    return {
        "person_name": covered([*word_spans(text, options.names), *titled_names(text)]),
        "domain_term": covered(word_spans(text, options.terms)),
        "abbreviation": covered(latin_spans(text)),
    }


class _Judge:
    """Applies the rules to the edits of one alignment."""

    def __init__(self, alignment: Alignment, options: ScoringOptions) -> None:
        self.alignment, self.numbers = alignment, Numbers(alignment)
        self._in_reference = _words(alignment.reference, options)
        self._in_hypothesis = _words(alignment.hypothesis, options)
        self._fillers = _filler_pattern(options.fillers)
        self._runs = {edit: run for run in _runs(alignment.edits) for edit in run}

    def category(self, edit: Edit) -> str:
        return self._named(edit) or self._filler(edit) or self._homophone(edit) or "other"

    def _named(self, edit: Edit) -> str | None:
        """Category by the rules before the one for fillers."""
        number = self._number(edit)
        if number is None and not any(_LETTERS.match(character) for character in self._characters(edit)):
            return "punctuation"
        for category, indices in self._in_reference.items():
            if _is_in(edit, indices, self._in_hypothesis[category]):
                return category
        return number

    def _characters(self, edit: Edit) -> str:
        """The characters that the edit removes and adds."""
        gone = "" if edit.kind == "insert" else self.alignment.reference[edit.reference]
        return gone + ("" if edit.kind == "delete" else self.alignment.hypothesis[edit.hypothesis])

    def _number(self, edit: Edit) -> str | None:
        numbers = self.numbers
        spans = _spans_of(edit, numbers.reference, edit.reference, "insert")
        others = _spans_of(edit, numbers.hypothesis, edit.hypothesis, "delete")
        if not spans and not others:
            return None
        same = all(map(numbers.same_in_hypothesis, spans)) and all(map(numbers.same_in_reference, others))
        return "number_format" if same else "number_value"

    def _filler(self, edit: Edit) -> str | None:
        left = [other for other in self._runs[edit] if self._named(other) is None]
        spoken = "".join(map(self._characters, left))
        return "filler" if edit.kind != "replace" and self._fillers.fullmatch(spoken) else None

    def _homophone(self, edit: Edit) -> str | None:
        if edit.kind != "replace":
            return None
        one, other = map(readings, self._characters(edit))
        if one & other:
            return "homophone_same_tone"
        if {reading[:-1] for reading in one} & {reading[:-1] for reading in other}:
            return "homophone_other_tone"
        return None


def _is_in(edit: Edit, reference: set[int], hypothesis: set[int]) -> bool:
    here, there = edit.reference, edit.hypothesis
    in_reference = here in reference and (edit.kind != "insert" or here - 1 in reference)
    return in_reference or (there in hypothesis and (edit.kind != "delete" or there - 1 in hypothesis))


def _spans_of(edit: Edit, spans: list[Span], index: int, between: str) -> list[Span]:
    """The spans that hold an index; for an edit of the kind ``between``, those that extend to both sides of it."""
    first = 1 if edit.kind == between else 0
    return [span for span in spans if span[0] + first <= index < span[1]]


def _runs(edits: list[Edit]) -> Iterator[list[Edit]]:
    """Deletions, and insertions, of neighbouring characters: their indices grow by one from each to the next."""

    def start(numbered: tuple[int, Edit]) -> tuple[str, int, int]:
        number, edit = numbered
        in_reference, in_hypothesis = edit.kind != "insert", edit.kind != "delete"
        return edit.kind, edit.reference - number * in_reference, edit.hypothesis - number * in_hypothesis

    for _, run in groupby(enumerate(edits), key=start):
        yield [edit for _, edit in run]


@lru_cache(maxsize=16)
def _filler_pattern(more: tuple[str, ...]) -> regex.Pattern[str]:
    words = sorted({*FILLER_SOUNDS, *FILLER_WORDS, *more}, key=len, reverse=True)
    return regex.compile(f"(?:{'|'.join(map(regex.escape, words))})+", regex.IGNORECASE)


class Numbers:
    """The numbers of two aligned texts, compared by value, however they are written."""

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment
        self.reference = number_spans(alignment.reference)
        self.hypothesis = number_spans(alignment.hypothesis)

    def same_in_hypothesis(self, span: Span) -> bool:
        """Whether the hypothesis has the value of a number of the reference at the corresponding span."""
        there = self.alignment.in_hypothesis(span)
        return self._same([span], _overlapping(self.hypothesis, there) or [there])

    def same_in_reference(self, span: Span) -> bool:
        """Whether the reference has the value of a number of the hypothesis at the corresponding span."""
        there = self.alignment.in_reference(span)
        return self._same(_overlapping(self.reference, there) or [there], [span])

    def _same(self, spans: list[Span], others: list[Span]) -> bool:
        # Two numbers of one side may be one of the other: 一千 二百 and 1200.
        if len(others) == 1 and len(spans) == 1:
            spans = _overlapping(self.reference, self.alignment.in_reference(others[0])) or spans
        reference, hypothesis = self.alignment.reference, self.alignment.hypothesis
        return _value(reference[a:b] for a, b in spans) == _value(hypothesis[a:b] for a, b in others)


def number_accuracy(references: Mapping[str, str], hypotheses: Sequence[Mapping[str, str]]) -> float | None:
    """The fraction of the references' numbers whose value the hypothesis has at the same position; None without any.

    Numbers are those of ``number_spans``; 7000万 and 七千万 have the same value. Over all repeats of an evaluation.
    """
    right: list[bool] = []
    for key, reference in references.items():
        text = normalise(reference)
        if number_spans(text):
            for repeat in hypotheses:
                numbers = Numbers(Alignment(text, normalise(repeat.get(key) or "")))
                right += map(numbers.same_in_hypothesis, numbers.reference)
    return sum(right) / len(right) if right else None


def _overlapping(spans: list[Span], other: Span) -> list[Span]:
    return [span for span in spans if span[0] < other[1] and other[0] < span[1]]


def _value(texts: Iterable[str]) -> str:
    """The numbers as they are spoken; 10:30 may be spoken with or without 分."""
    return normalise("".join(texts), "normalised").removesuffix("分")
