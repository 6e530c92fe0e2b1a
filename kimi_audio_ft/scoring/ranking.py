"""The error rate that trials are ranked by (``scoring.rank_by``): of scores, of texts, of one utterance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring.error_rates import in_syllables, mixed_units, score
from kimi_audio_ft.scoring.normalise import normalise
from kimi_audio_ft.scoring.terms import ScoringOptions

# Rates whose edits and units utterances.jsonl has; those of the others are counted from its texts.
COUNTED = ("cer", "normalised_cer")
# Of narrow columns, by the names of ``config.train.RATES``.
RATE_HEADINGS = {"cer": "CER %", "normalised_cer": "norm. %", "mer": "MER %", "wer": "WER %", "pinyin": "syll. %"}


def normalised_and_field(rank_by: str) -> tuple[bool, str]:
    """Whether one of ``config.train.RATES`` is of the normalised texts, and its name in their scores."""
    return rank_by == "normalised_cer", {"normalised_cer": "cer", "pinyin": "pinyin_error_rate"}.get(rank_by, rank_by)


def rate_of(scores: Mapping[str, Any], rank_by: str) -> float | None:
    """One of ``config.train.RATES`` in the record that ``scores.json`` is; None where an older record lacks it."""
    is_normalised, field = normalised_and_field(rank_by)
    return ((scores.get("normalised") or {}) if is_normalised else scores).get(field)


def rate_of_texts(
    references: Mapping[str, str], hypotheses: Mapping[str, str], rank_by: str, options: ScoringOptions
) -> float:
    """The same of texts by id, as they are scored."""
    is_normalised, field = normalised_and_field(rank_by)
    found: float = score(references, hypotheses, options.normalised if is_normalised else "strict")[field]
    return found


def utterance_edits(reference: str, hypothesis: str, rank_by: str) -> tuple[int, int]:
    """Edits of one utterance and its reference units, of a rate that is not ``COUNTED``; sums of them give
    ``score``'s."""
    units = _units(reference, rank_by)
    if reference == hypothesis:
        return 0, len(units)
    return Levenshtein.distance(units, _cut(hypothesis, rank_by)), len(units)


@lru_cache(maxsize=50_000)
def _units(text: str, rank_by: str) -> tuple[str, ...]:
    """Of references, which all trials of a sweep share."""
    return _cut(text, rank_by)


def _cut(text: str, rank_by: str) -> tuple[str, ...]:
    text = normalise(text)
    if rank_by == "wer":
        return tuple(text.split())
    if rank_by not in ("mer", "pinyin"):
        raise ConfigError("rank_by", rank_by, "is not counted in words, mixed units or syllables")
    units = mixed_units(text)
    return tuple(in_syllables(units) if rank_by == "pinyin" else units)
