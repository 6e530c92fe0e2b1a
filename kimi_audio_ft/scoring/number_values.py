"""Whether numbers were heard right, however they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kimi_audio_ft.scoring.alignment import Alignment
from kimi_audio_ft.scoring.normalise import normalise
from kimi_audio_ft.scoring.spans import Span, number_spans


class Numbers:
    """The numbers of two aligned texts."""

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment
        self.reference = number_spans(alignment.reference)
        self.hypothesis = number_spans(alignment.hypothesis)

    def same_in_hypothesis(self, span: Span) -> bool:
        """Whether the hypothesis says the value of a number of the reference in its place."""
        there = self.alignment.in_hypothesis(span)
        found = [other for other in self.hypothesis if _overlap(other, there)]
        return self._same([span], found or [there])

    def same_in_reference(self, span: Span) -> bool:
        """Whether a number of the hypothesis has the value that the reference has in its place."""
        there = self.alignment.in_reference(span)
        found = [other for other in self.reference if _overlap(other, there)]
        return self._same(found or [there], [span])

    def _same(self, spans: list[Span], others: list[Span]) -> bool:
        # Two numbers of one side may be one of the other: 一千 二百 and 1200.
        if len(others) == 1 and len(spans) == 1:
            back = self.alignment.in_reference(others[0])
            spans = [span for span in self.reference if _overlap(span, back)] or spans
        reference, hypothesis = self.alignment.reference, self.alignment.hypothesis
        return _value(reference[a:b] for a, b in spans) == _value(hypothesis[a:b] for a, b in others)


def number_accuracy(references: Mapping[str, str], hypotheses: Sequence[Mapping[str, str]]) -> float | None:
    """The fraction of the references' numbers whose value stands in its place in the hypothesis; None without any.

    Numbers are those of ``number_spans``; 7000万 and 七千万 have the same value. Over all repeats of an evaluation.
    """
    right = total = 0
    for key, reference in references.items():
        text = normalise(reference)
        spans = number_spans(text)
        if spans:
            total += len(spans) * len(hypotheses)
            right += sum(_right(text, normalise(repeat.get(key) or ""), spans) for repeat in hypotheses)
    return right / total if total else None


def _right(reference: str, hypothesis: str, spans: list[Span]) -> int:
    if reference == hypothesis:
        return len(spans)
    numbers = Numbers(Alignment(reference, hypothesis))
    return sum(numbers.same_in_hypothesis(span) for span in spans)


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _value(texts: Iterable[str]) -> str:
    """The numbers as they are said; 10:30 may be said with or without 分."""
    return normalise("".join(texts), "normalised").removesuffix("分")
