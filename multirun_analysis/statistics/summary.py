"""All of a sweep's statistics, from its trials' utterances and curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from kimi_audio_ft.scoring.intervals import RESAMPLES, error_rate_intervals
from multirun_analysis.compare import Comparison
from multirun_analysis.statistics.effects import main_effects
from multirun_analysis.statistics.overfitting import overfitting_of
from multirun_analysis.statistics.pairs import all_pairs
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.recommendation import MARGIN, best_group, recommend, standings
from multirun_analysis.statistics.results import Effect, Gain, Interval, Pair, Reason, Standing, Statistics
from multirun_analysis.statistics.sample_size import needed
from multirun_analysis.statistics.tally import Tally, tally_up
from multirun_analysis.sweep import Trial

# Of a larger sweep only those with the lowest CER are compared pair by pair: the pairs of a thousand trials are half a
# million, and nobody asks which of the worst two is better.
MOST_COMPARED = 64
# Fixed, so that a report made again says the same.
SEED = 0


def statistics_of(comparison: Comparison, margin: float = MARGIN) -> Statistics:
    """Intervals, comparisons, effects and verdicts of a sweep; the same for the same files, on every machine.

    Args:
        margin: how much worse than the best, relative to its CER, a cheaper trial may be to be recommended.

    Raises:
        DataError: an utterances.jsonl or curves.jsonl cannot be read.
    """
    ordered = [row.trial for row in comparison.rows if not row.trial.is_base]
    base = comparison.lowest_base
    compared = sorted([*ordered[:MOST_COMPARED], *([base] if base else [])], key=lambda trial: trial.cer)
    tallies = tally_up(compared)
    tally = tallies.strict
    tested = tally if tally is not None and tally.has_enough and len(tally.trials) > 1 else None
    randomised = randomise(tested.whole_edits, SEED) if tested else None
    pairs = all_pairs(tally, randomised) if tally else []
    standing = standings(tested, randomised) if tested and randomised else []
    among = [one for one in standing if not one.trial.is_base]
    choice, reason = _choice(ordered, tally, among, margin)
    gain = _gain(choice, base, pairs)
    keep = gain is not None and (gain.difference >= 0 or (gain.interval is not None and not gain.shown))
    scored, normalised = ordered + comparison.sweep.baselines, tallies.normalised
    return Statistics(
        intervals=_intervals(scored, tally, None),
        normalised_intervals=_intervals(scored, normalised, "normalised"),
        pairs=pairs,
        standings=standing,
        best_group=best_group(among) or ordered[:1],
        recommended=gain.base if gain and keep else choice,
        choice=choice,
        reason=Reason.KEEP_BASE if keep else reason,
        gain=gain,
        margin=margin,
        effects=_effects(comparison, tally),
        overfitting=[overfitting_of(adapter) for adapter in comparison.adapters],
        needed=needed(tested, randomised) if tested and randomised else None,
        recordings=tally.num_recordings if tally else 0,
        utterances=len(tally.recordings) if tally else 0,
        grouped=tally is not None and tally.num_recordings < len(tally.recordings),
        left_out=[trial for trial in tallies.left_out if not trial.is_base],
        beyond=ordered[MOST_COMPARED:],
        transcripts=tallies.transcripts,
    )


def _choice(ordered: list[Trial], tally: Tally | None, standing: list[Standing], margin: float) -> tuple[Trial, Reason]:
    """The trial to take, were there no base."""
    best = ordered[0]
    if len(ordered) == 1:
        return best, Reason.ONLY
    if tally is None or best not in tally.trials or sum(not trial.is_base for trial in tally.trials) == 1:
        return best, Reason.NO_UTTERANCES
    if not tally.has_enough:
        return best, Reason.TOO_FEW_RECORDINGS
    return recommend(standing, margin)


def _gain(choice: Trial, base: Trial | None, pairs: list[Pair]) -> Gain | None:
    if base is None:
        return None
    difference = choice.cer - base.cer
    for pair in pairs:
        if {pair.first, pair.second} == {choice, base} and pair.interval is not None:
            low, high = pair.interval.low, pair.interval.high
            interval = Interval(low, high) if pair.first is choice else Interval(-high, -low)
            return Gain(choice, base, difference, interval, pair.is_significant and difference < 0)
    return Gain(choice, base, difference)


def _intervals(trials: list[Trial], tally: Tally | None, part: str | None) -> dict[Trial, Interval]:
    """Of the tally's trials as they are compared, of others as their own records have it."""
    found = {}
    for trial in trials:
        record: Any = (trial.record.get(part) or {}) if part else trial.record
        low, high = record.get("cer_ci_low"), record.get("cer_ci_high")
        if isinstance(low, int | float) and isinstance(high, int | float):
            found[trial] = Interval(float(low), float(high))
    if tally is not None and tally.has_enough:
        bounds = error_rate_intervals(tally.edits_by_recording, tally.chars_by_recording, SEED)
        found |= {trial: Interval(low, high) for trial, (low, high) in zip(tally.trials, bounds.tolist(), strict=True)}
    return found


def _effects(comparison: Comparison, tally: Tally | None) -> list[Effect]:
    """Over the compared trials; over all finished ones, without intervals, where not all of them were."""
    trials = comparison.sweep.finished
    rows = [] if tally is None else [row for row, trial in enumerate(tally.trials) if not trial.is_base]
    if tally is None or len(rows) < 2 or len(trials) > MOST_COMPARED:
        return main_effects(trials, comparison.swept, np.array([trial.cer for trial in trials]), None)
    resampled = tally.resampled(RESAMPLES, SEED)
    drawn = None if resampled is None else resampled[:, rows]
    return main_effects([tally.trials[row] for row in rows], comparison.swept, tally.rates[rows], drawn)
