"""All of a sweep's statistics, from its trials' utterances and curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from kimi_audio_ft.scoring.intervals import RESAMPLES
from multirun_analysis.compare import Comparison
from multirun_analysis.statistics.effects import main_effects
from multirun_analysis.statistics.overfitting import overfitting_of
from multirun_analysis.statistics.pairs import all_pairs
from multirun_analysis.statistics.recommendation import best_group, recommend
from multirun_analysis.statistics.results import Effect, Floats, Interval, Pair, Reason, Statistics
from multirun_analysis.statistics.sample_size import needed
from multirun_analysis.statistics.tally import Tallies, Tally, tally_up
from multirun_analysis.sweep import Trial

# Of a larger sweep only those with the lowest CER are compared pair by pair: the pairs of a thousand trials are half a
# million, and nobody asks which of the worst two is better.
MOST_COMPARED = 64
# Fixed, so that a report made again says the same.
SEED = 0


def statistics_of(comparison: Comparison) -> Statistics:
    """Intervals, comparisons, effects and verdicts of a sweep; the same for the same files, on every machine.

    Raises:
        DataError: an utterances.jsonl or curves.jsonl cannot be read.
    """
    ordered = [row.trial for row in comparison.rows if not row.trial.is_base]
    tallies = tally_up(ordered[:MOST_COMPARED])
    strict, resampled = tallies.strict, _resampled(tallies.strict)
    pairs = all_pairs(strict, resampled) if strict else []
    group, recommended, reason = _verdict(ordered, tallies, pairs)
    scored, normalised = ordered + comparison.sweep.baselines, tallies.normalised
    return Statistics(
        intervals=_intervals(scored, strict, resampled, None),
        normalised_intervals=_intervals(scored, normalised, _resampled(normalised), "normalised"),
        pairs=pairs,
        best_group=group,
        recommended=recommended,
        reason=reason,
        effects=_effects(comparison, strict, resampled),
        overfitting=[overfitting_of(adapter) for adapter in comparison.adapters],
        needed=needed(strict) if strict else None,
        recordings=strict.num_recordings if strict else 0,
        utterances=len(strict.recordings) if strict else 0,
        left_out=tallies.left_out,
        beyond=ordered[MOST_COMPARED:],
    )


def _resampled(tally: Tally | None) -> Floats | None:
    return None if tally is None else tally.resampled(RESAMPLES, SEED)


def _verdict(ordered: list[Trial], tallies: Tallies, pairs: list[Pair]) -> tuple[list[Trial], Trial, Reason]:
    best, tally = ordered[0], tallies.strict
    if len(ordered) == 1:
        return [best], best, Reason.ONLY
    if tally is None or tally.trials[0] is not best or len(tally.trials) == 1:
        return [best], best, Reason.NO_UTTERANCES
    if not tally.has_enough:
        return [best], best, Reason.TOO_FEW_RECORDINGS
    group = best_group(tally.trials, pairs)
    return (group, *recommend(group))


def _intervals(
    trials: list[Trial], tally: Tally | None, resampled: Floats | None, part: str | None
) -> dict[Trial, Interval]:
    """Of the tally's trials from their resamples, of bases and others as their own records have it."""
    found = {}
    for trial in trials:
        record: Any = (trial.record.get(part) or {}) if part else trial.record
        low, high = record.get("cer_ci_low"), record.get("cer_ci_high")
        if isinstance(low, int | float) and isinstance(high, int | float):
            found[trial] = Interval(float(low), float(high))
    if tally is not None and resampled is not None:
        found |= dict(zip(tally.trials, Interval.of_each(resampled), strict=True))
    return found


def _effects(comparison: Comparison, tally: Tally | None, resampled: Floats | None) -> list[Effect]:
    """Over the compared trials; over all finished ones, without intervals, where not all of them were."""
    trials = comparison.sweep.finished
    if tally is None or len(tally.trials) < 2 or len(trials) > MOST_COMPARED:
        return main_effects(trials, comparison.swept, np.array([trial.cer for trial in trials]), None)
    return main_effects(tally.trials, comparison.swept, tally.rates, resampled)
