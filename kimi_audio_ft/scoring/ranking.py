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


def rate_of(scores: Mapping[str, Any], rank_by: str) -> float | None:
    """One of ``config.train.RATES`` in the record that ``scores.json`` is; None where an older record lacks it."""
    if rank_by == "normalised_cer":
        return (scores.get("normalised") or {}).get("cer")
    rate: float | None = scores.get("pinyin_error_rate" if rank_by == "pinyin" else rank_by)
    return rate


def rate_of_texts(
    references: Mapping[str, str], hypotheses: Mapping[str, str], rank_by: str, options: ScoringOptions
) -> float:
    """The same of texts by id, as they are scored."""
    rules = options.normalised if rank_by == "normalised_cer" else "strict"
    found = score(references, hypotheses, rules)
    return found["pinyin_error_rate" if rank_by == "pinyin" else "cer" if rank_by == "normalised_cer" else rank_by]


def utterance_edits(reference: str, hypothesis: str, rank_by: str) -> tuple[int, int]:
    """Edits of one utterance and its reference units, for "mer", "wer" or "pinyin"; sums of them give ``score``'s.

    The CERs are not counted here: ``utterances.jsonl`` has their counts.
    """
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
