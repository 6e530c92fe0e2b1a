"""Edit counts and error rates of transcripts, over characters, words and mixed units.

The loop runs over the *references*: an utterance that came back empty or not at all is all deletions, so that
silence cannot leave the denominator (as it does in scorers that loop over hypotheses). Rates are corpus level:
all edits divided by all reference units. Alignments are rapidfuzz's, and counts over characters equal those of
``jiwer.process_characters`` (white space between words counts as a character).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex
from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring.normalise import normalise, rules_of

# One Han character, or a run of other letters and digits: "7000万" is two units, "2.5", "don't" and "5G" are one each.
_MIXED_UNIT = regex.compile(
    r"\p{Han}|[[\p{L}\p{M}\p{N}]--\p{Han}]+"
    r"(?:(?:(?<=\p{Nd})[.,:/](?=\p{Nd})|(?<=\p{L})['’](?=\p{L}))[[\p{L}\p{M}\p{N}]--\p{Han}]+)*",
    regex.V1,
)


@dataclass
class EditCounts:
    """Edits that turn references into hypotheses, and the number of reference units they are counted against."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_units: int = 0

    @property
    def rate(self) -> float:
        """Edits per reference unit; the bare number of insertions where there is no unit to divide by (as jiwer)."""
        edits = self.substitutions + self.deletions + self.insertions
        return edits / max(self.reference_units, 1)

    def add(self, reference: Sequence[str], hypothesis: Sequence[str]) -> None:
        """Align one utterance, given as two sequences of units, and add its edits."""
        self.reference_units += len(reference)
        if reference == hypothesis:
            return
        tags = [tag for tag, _, _ in Levenshtein.editops(reference, hypothesis).as_list()]
        self.substitutions += tags.count("replace")
        self.deletions += tags.count("delete")
        self.insertions += tags.count("insert")


def mixed_units(text: str) -> list[str]:
    """Units of the mixed error rate: Han characters, and words of Latin letters and digits; marks are no units.

    Example: ``所有LPL的2.5亿`` gives ``["所", "有", "LPL", "的", "2.5", "亿"]`` (the cut of WeNet's compute-wer).
    """
    return _MIXED_UNIT.findall(text)


def score(
    references: Mapping[str, str], hypotheses: Mapping[str, str], normalisation: str = "strict"
) -> dict[str, float | int]:
    """Corpus-level error rates of ``hypotheses`` against ``references``, two dicts keyed by utterance id.

    Returns a dict with

    - ``cer``, ``wer``, ``mer``: edits per reference unit (a fraction, may exceed 1) over characters, words between
      white space, and mixed units (see ``mixed_units``);
    - ``exact_match``: the fraction of references that are reproduced exactly;
    - ``substitutions``, ``deletions``, ``insertions``: counts over characters;
    - ``num_references``, ``num_reference_chars``: what the counts are measured against;
    - ``empty_outputs``: how many references have no hypothesis, or one with nothing in it after normalisation.

    A missing or empty hypothesis is all deletions. Raises ``UserError`` (a ``ValueError``) for an empty
    ``references``, for a hypothesis whose id has no reference, and for an unknown ``normalisation``.
    """
    chars, words, mixed = EditCounts(), EditCounts(), EditCounts()
    exact = empty = 0
    for _, reference, hypothesis in _pairs(references, hypotheses, normalisation):
        chars.add(reference, hypothesis)
        words.add(reference.split(), hypothesis.split())
        mixed.add(mixed_units(reference), mixed_units(hypothesis))
        exact += reference == hypothesis
        empty += not hypothesis
    return {
        "cer": chars.rate,
        "wer": words.rate,
        "mer": mixed.rate,
        "exact_match": exact / len(references),
        "substitutions": chars.substitutions,
        "deletions": chars.deletions,
        "insertions": chars.insertions,
        "num_references": len(references),
        "num_reference_chars": chars.reference_units,
        "empty_outputs": empty,
    }


def utterance_scores(
    references: Mapping[str, str], hypotheses: Mapping[str, str], normalisation: str = "strict"
) -> dict[str, float]:
    """Character error rate of every reference by its id, in the order of ``references``; errors as in ``score``.

    An empty reference scores the number of inserted characters.
    """
    rates = {}
    for key, reference, hypothesis in _pairs(references, hypotheses, normalisation):
        counts = EditCounts()
        counts.add(reference, hypothesis)
        rates[key] = counts.rate
    return rates


def _pairs(
    references: Mapping[str, str], hypotheses: Mapping[str, str], normalisation: str
) -> Iterator[tuple[str, str, str]]:
    """Id, reference and hypothesis of every reference, normalised; a missing hypothesis is the empty text."""
    rules_of(normalisation)
    _check_ids(references, hypotheses)
    for key, reference in references.items():
        hypothesis = hypotheses.get(key)
        yield (
            key,
            normalise(_checked_text("references", key, reference), normalisation),
            normalise(_checked_text("hypotheses", key, "" if hypothesis is None else hypothesis), normalisation),
        )


def _check_ids(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> None:
    if not references:
        raise UserError("references: there is no utterance to score. Give at least one reference")
    unknown = [key for key in hypotheses if key not in references]
    if unknown:
        named = ", ".join(repr(key) for key in unknown[:3]) + (" ..." if len(unknown) > 3 else "")
        raise UserError(
            f"hypotheses: {len(unknown)} of {len(hypotheses)} have no reference: {named}. "
            "Score them against the evaluation set they were decoded from"
        )


def _checked_text(side: str, key: str, text: Any) -> str:
    if not isinstance(text, str):
        raise UserError(f"{side}[{key!r}]={text!r}: a transcript must be text, not {type(text).__name__}")
    return text
