"""Edit counts and error rates of transcripts, over characters, words and mixed units.

The loop runs over the *references*: an utterance that came back empty or not at all is all deletions, so that
silence cannot leave the denominator (as it does in scorers that loop over hypotheses). Rates are corpus level:
all edits divided by all reference units. Alignments are rapidfuzz's, and counts over characters equal those of
``jiwer.process_characters`` (white space between words counts as a character).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex
from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring.generation import is_over_generated
from kimi_audio_ft.scoring.normalise import Normalisation, normalise, rules_of
from kimi_audio_ft.scoring.pinyin import in_syllables

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
    def edits(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Edits per reference unit; the bare number of insertions where there is no unit to divide by (as jiwer)."""
        return self.edits / max(self.reference_units, 1)

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


@dataclass
class _Totals:
    """What ``score`` counts over the utterances of a corpus."""

    chars: EditCounts = field(default_factory=EditCounts)
    words: EditCounts = field(default_factory=EditCounts)
    mixed: EditCounts = field(default_factory=EditCounts)
    syllable_edits: int = 0
    references: int = 0
    exact: int = 0
    empty: int = 0
    over_generated: int = 0

    def add(self, reference: str, hypothesis: str) -> None:
        self.references += 1
        self.chars.add(reference, hypothesis)
        self.words.add(reference.split(), hypothesis.split())
        units, found = mixed_units(reference), mixed_units(hypothesis)
        self.mixed.add(units, found)
        self.empty += not hypothesis
        if reference == hypothesis:
            self.exact += 1
            return
        self.syllable_edits += Levenshtein.distance(in_syllables(units), in_syllables(found))
        self.over_generated += is_over_generated(reference, hypothesis)

    def figures(self) -> dict[str, float | int]:
        chars = self.chars
        return {
            "cer": chars.rate,
            "wer": self.words.rate,
            "mer": self.mixed.rate,
            "pinyin_error_rate": self.syllable_edits / max(self.mixed.reference_units, 1),
            "exact_match": self.exact / self.references,
            "empty_rate": self.empty / self.references,
            "over_generation_rate": self.over_generated / self.references,
            "substitutions": chars.substitutions,
            "deletions": chars.deletions,
            "insertions": chars.insertions,
            "num_references": self.references,
            "num_reference_chars": chars.reference_units,
            "empty_outputs": self.empty,
        }


def score(
    references: Mapping[str, str], hypotheses: Mapping[str, str], normalisation: Normalisation = "strict"
) -> dict[str, float | int]:
    """Corpus-level error rates of ``hypotheses`` against ``references``, two dicts keyed by utterance id.

    Returns a dict with

    - ``cer``, ``wer``, ``mer``: edits per reference unit (a fraction, may exceed 1) over characters, words between
      white space, and mixed units (see ``mixed_units``);
    - ``pinyin_error_rate``: over mixed units, every Han character being its toneless syllable (see ``pinyin``). Far
      below ``mer``, it says that the errors are homophones;
    - ``exact_match``: the fraction of references that are reproduced exactly;
    - ``empty_rate``, ``empty_outputs``: how many references have no hypothesis, or one with nothing in it after
      normalisation, as a fraction and as a count;
    - ``over_generation_rate``: the fraction of references whose hypothesis is longer than 1.5 times the reference plus
      10 characters, or longer and running in a circle (see ``is_over_generated``);
    - ``substitutions``, ``deletions``, ``insertions``: counts over characters;
    - ``num_references``, ``num_reference_chars``: what the counts are measured against.

    A missing or empty hypothesis is all deletions. ``normalisation`` is a name or a tuple of rules (see ``normalise``).
    Raises ``UserError`` (a ``ValueError``) for an empty ``references``, for a hypothesis whose id has no reference, and
    for an unknown ``normalisation``.
    """
    totals = _Totals()
    for _, reference, hypothesis in normalised_pairs(references, hypotheses, normalisation):
        totals.add(reference, hypothesis)
    return totals.figures()


def utterance_counts(
    references: Mapping[str, str], hypotheses: Mapping[str, str], normalisation: Normalisation = "strict"
) -> dict[str, EditCounts]:
    """Edits over characters of every reference by its id, in the order of ``references``; errors as in ``score``."""
    counts = {}
    for key, reference, hypothesis in normalised_pairs(references, hypotheses, normalisation):
        counts[key] = EditCounts()
        counts[key].add(reference, hypothesis)
    return counts


def normalised_pairs(
    references: Mapping[str, str], hypotheses: Mapping[str, str], normalisation: Normalisation
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
