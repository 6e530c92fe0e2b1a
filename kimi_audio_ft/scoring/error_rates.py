"""Edit counts and error rates of transcripts, over characters, words and mixed units; and alignments.

The loop runs over the *references*: an empty or missing hypothesis is all deletions, so that silence cannot leave the
denominator (as it does in scorers that loop over hypotheses). Rates are corpus level: all edits divided by all
reference units. Alignments are rapidfuzz's, and counts over characters equal those of ``jiwer.process_characters``
(white space between words counts as a character).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import regex
from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring.normalise import Normalisation, normalise, rules_of
from kimi_audio_ft.scoring.spans import Span

# One Han character, or a run of other letters and digits: "7000万" is two units, "2.5", "don't" and "5G" are one each.
_MIXED_UNIT = regex.compile(
    r"\p{Han}|[[\p{L}\p{M}\p{N}]--\p{Han}]+"
    r"(?:(?:(?<=\p{Nd})[.,:/](?=\p{Nd})|(?<=\p{L})['’](?=\p{L}))[[\p{L}\p{M}\p{N}]--\p{Han}]+)*",
    regex.V1,
)
LENGTH_FACTOR, LENGTH_MARGIN = 1.5, 10
# The same 1 to 20 characters at least five times in a row ...
_LOOP = regex.compile(r"(.{1,20}?)\1{4,}", regex.DOTALL)
# ... which together are at least so many: 哈哈哈哈哈 is speech.
_LOOP_CHARS = 10
_HAN = regex.compile(r"\p{Han}")


def score(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    normalisation: Normalisation = "strict",
    syllables: bool = True,
) -> dict[str, float | int]:
    """Corpus-level error rates of ``hypotheses`` against ``references``, two dicts keyed by utterance id.

    - ``cer``, ``wer``, ``mer``: edits per reference unit (a fraction, may exceed 1) over characters, words between
      white space, and ``mixed_units``;
    - ``pinyin_error_rate``: over mixed units with Han characters as toneless syllables; far below ``mer``, it says that
      the errors are homophones;
    - ``exact_match``, ``empty_rate``, ``over_generation_rate``: fractions of the references that are reproduced, that
      have nothing as hypothesis after normalisation, and whose hypothesis ``is_over_generated``;
    - counts: ``empty_outputs``, and over characters ``substitutions``, ``deletions``, ``insertions``.

    A missing or empty hypothesis is all deletions. ``normalisation`` is a name or a tuple of rules (see ``normalise``).
    Without ``syllables`` there is no ``pinyin_error_rate``: their readings take a quarter of a second to load.
    Raises ``UserError`` (a ``ValueError``) for an empty ``references``, for a hypothesis whose id has no reference, and
    for an unknown ``normalisation``.
    """
    chars, words, mixed = EditCounts(), EditCounts(), EditCounts()
    syllable_edits = exact = empty = over_generated = 0
    for _, reference, hypothesis in normalised_pairs(references, hypotheses, normalisation):
        units, found = mixed_units(reference), mixed_units(hypothesis)
        chars.add(reference, hypothesis)
        words.add(reference.split(), hypothesis.split())
        mixed.add(units, found)
        empty += not hypothesis
        if reference == hypothesis:
            exact += 1
        else:
            if syllables:
                syllable_edits += Levenshtein.distance(in_syllables(units), in_syllables(found))
            over_generated += is_over_generated(reference, hypothesis)
    return {
        "cer": chars.rate,
        "wer": words.rate,
        "mer": mixed.rate,
        **({"pinyin_error_rate": syllable_edits / max(mixed.reference_units, 1)} if syllables else {}),
        "exact_match": exact / len(references),
        "empty_rate": empty / len(references),
        "over_generation_rate": over_generated / len(references),
        "substitutions": chars.substitutions,
        "deletions": chars.deletions,
        "insertions": chars.insertions,
        "num_references": len(references),
        "num_reference_chars": chars.reference_units,
        "empty_outputs": empty,
    }


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


@dataclass
class EditCounts:
    """Edits that turn references into hypotheses, and the number of reference units they are counted against."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_units: int = 0

    @property
    def edits(self) -> int:
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


def is_han(unit: str) -> bool:
    """Whether it is one Han character."""
    return _HAN.fullmatch(unit) is not None


def is_over_generated(reference: str, hypothesis: str) -> bool:
    """Whether a hypothesis is runaway output: much longer than the reference, or a loop.

    It has more than 1.5 times the reference's characters plus 10; or it is longer than the reference and repeats 1 to
    20 characters at least five times in a row, over at least 10 characters that do not occur so in the reference.
    """
    if len(hypothesis) <= len(reference):
        return False
    if len(hypothesis) > LENGTH_FACTOR * len(reference) + LENGTH_MARGIN:
        return True
    return any(len(loop[0]) >= _LOOP_CHARS and loop[0] not in reference for loop in _LOOP.finditer(hypothesis))


@lru_cache(maxsize=100_000)
def _syllable(unit: str) -> str:
    if not is_han(unit):
        return unit
    from pypinyin import Style, lazy_pinyin

    return next(iter(lazy_pinyin(unit, style=Style.NORMAL, errors="ignore")), unit)


def in_syllables(units: Iterable[str]) -> list[str]:
    """Units of the mixed error rate with every Han character as its toneless syllable: 在 and 再 are both ``zai``.

    Other words, numbers, and characters without a known reading stay as they are.
    """
    return list(map(_syllable, units))


@lru_cache(maxsize=100_000)
def readings(character: str) -> frozenset[str]:
    """All readings of a Han character with tone, as ``hang2`` (5 is the neutral tone); empty for any other character.

    Example: 行 gives ``{"xing2", "hang2", ...}``.
    """
    if not is_han(character):
        return frozenset()
    from pypinyin import Style, pinyin  # a quarter of a second, which only scoring needs

    found = pinyin(character, style=Style.TONE3, heteronym=True, neutral_tone_with_five=True, errors="ignore")
    return frozenset(reading for readings in found for reading in readings if reading)


@dataclass(frozen=True)
class Edit:
    """One edit of an alignment: ``kind`` is replace, delete or insert.

    reference: index of the character that was replaced or deleted, or before which one was inserted.
    hypothesis: index of the character that replaced it or was inserted, or before which one was deleted.
    """

    kind: str
    reference: int
    hypothesis: int


class Alignment:
    """Two texts, the fewest edits between them, and the mapping of spans between them."""

    def __init__(self, reference: str, hypothesis: str) -> None:
        self.reference, self.hypothesis = reference, hypothesis
        self.edits = [Edit(*edit) for edit in Levenshtein.editops(reference, hypothesis).as_list()]
        # Corresponding positions between characters in both texts: pairs that grow in both.
        pairs = {(0, 0), (len(reference), len(hypothesis))}
        for code in Levenshtein.opcodes(reference, hypothesis):
            if code.tag in ("equal", "replace"):
                pairs |= {(code.src_start + k, code.dest_start + k) for k in range(code.src_end - code.src_start + 1)}
            else:
                pairs |= {(index, code.dest_start) for index in range(code.src_start, code.src_end + 1)}
                pairs |= {(code.src_end, index) for index in range(code.dest_start, code.dest_end + 1)}
        ordered = sorted(pairs)
        self._reference, self._hypothesis = [r for r, _ in ordered], [h for _, h in ordered]

    def in_hypothesis(self, span: Span) -> Span:
        """The widest span of the hypothesis that corresponds to a span of the reference."""
        return _mapped(span, self._reference, self._hypothesis)

    def in_reference(self, span: Span) -> Span:
        """The widest span of the reference that corresponds to a span of the hypothesis."""
        return _mapped(span, self._hypothesis, self._reference)


def _mapped(span: Span, positions: Sequence[int], others: Sequence[int]) -> Span:
    return others[bisect_left(positions, span[0])], others[bisect_right(positions, span[1]) - 1]
