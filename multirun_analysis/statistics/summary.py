"""All of a sweep's statistics, from its trials' utterances and curves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kimi_audio_ft.scoring.intervals import LEVEL, RESAMPLES, error_rate_intervals, student_quantile
from kimi_audio_ft.scoring.ranking import COUNTED, normalised_and_field
from multirun_analysis.compare import Comparison
from multirun_analysis.settings import Setting
from multirun_analysis.statistics.dependence import partial_dependence
from multirun_analysis.statistics.effects import main_effects
from multirun_analysis.statistics.overfitting import overfitting_of
from multirun_analysis.statistics.pairs import all_pairs
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.recommendation import MARGIN, best_group, recommend, standings
from multirun_analysis.statistics.results import (
    Effect,
    Floats,
    Gain,
    HalfSplit,
    Interval,
    Pair,
    Reason,
    SearchFit,
    Standing,
    Statistics,
)
from multirun_analysis.statistics.sample_size import needed, needed_for
from multirun_analysis.statistics.selection import half_split
from multirun_analysis.statistics.tally import Tally, of_settings, tally_up
from multirun_analysis.sweep import Trial

# Of a larger sweep only the best are compared pair by pair: the pairs of a thousand trials are half a
# million, and nobody asks which of the worst two is better.
MOST_COMPARED = 64
# Fixed, so that a report made again says the same.
SEED = 0


def statistics_of(comparison: Comparison, margin: float = MARGIN) -> Statistics:
    """Intervals, comparisons, effects and verdicts of a sweep; the same for the same files, on every machine.

    Args:
        margin: how much worse than the best, relative to its rate, a cheaper trial may be to be recommended.

    Raises:
        DataError: an utterances.jsonl or curves.jsonl cannot be read.
    """
    ordered = [setting for setting in comparison.settings if not setting.is_base]
    base = next((setting for setting in comparison.settings if setting.is_base), None)
    compared = sorted([*ordered[:MOST_COMPARED], *([base] if base else [])], key=lambda setting: setting.rate)
    tallies = tally_up([trial for setting in compared for trial in setting.trials])
    tally = of_settings(tallies.ranked, compared) if tallies.ranked else None
    tested = tally if tally is not None and tally.has_enough and len(tally.trials) > 1 else None
    randomised = randomise(tested.whole_edits, SEED, tested.seeds) if tested else None
    pairs = all_pairs(tally, randomised) if tally else []
    standing = standings(tested, randomised) if tested and randomised else []
    among = [one for one in standing if not one.trial.is_base]
    choice, reason = _choice(ordered, tally, among, margin)
    gain = gain_of(next(one for one in ordered if one.trial is choice), base, pairs) if base else None
    keep = gain is not None and (gain.difference >= 0 or (gain.interval is not None and not gain.shown))
    scored = [row.trial for row in comparison.rows]
    effects, search = _effects(comparison, tally)
    counted = {
        rate: _intervals(scored, tally, rate)
        for rate, tally in zip(COUNTED, (tallies.strict, tallies.normalised), strict=True)
    }
    strict, normalised = counted.values()
    intervals = counted.get(comparison.rank_by) or _intervals(scored, tallies.ranked, comparison.rank_by)
    return Statistics(
        intervals=intervals,
        strict_intervals=strict,
        normalised_intervals=normalised,
        setting_intervals=_setting_intervals(comparison.settings, tally, intervals),
        seeds=tally.seeds if tally else None,
        pairs=pairs,
        standings=standing,
        best_group=best_group(among) or [ordered[0].trial],
        recommended=gain.base if gain and keep else choice,
        choice=choice,
        reason=Reason.KEEP_BASE if keep else reason,
        gain=gain,
        margin=margin,
        effects=effects,
        search=search,
        overfitting=[overfitting_of(adapter) for adapter in comparison.adapters],
        needed=needed(tested, randomised) if tested and randomised else None,
        gain_needed=needed_for(gain, tested, randomised) if gain and not gain.shown and tested and randomised else None,
        half_split=_half_split(tested),
        recordings=tally.num_recordings if tally else 0,
        utterances=len(tally.recordings) if tally else 0,
        grouped=tally is not None and tally.num_recordings < len(tally.recordings),
        left_out=[trial for trial in tallies.left_out if not trial.is_base],
        transcripts=tallies.transcripts,
        beyond=[trial for setting in ordered[MOST_COMPARED:] for trial in setting.trials],
    )


def _choice(
    ordered: list[Setting], tally: Tally | None, standing: list[Standing], margin: float
) -> tuple[Trial, Reason]:
    """The trial to take, were there no base."""
    best = ordered[0].trial
    if len(ordered) == 1:
        return best, Reason.ONLY
    if tally is None or best not in tally.trials or sum(not trial.is_base for trial in tally.trials) == 1:
        return best, Reason.NO_UTTERANCES
    if not tally.has_enough:
        return best, Reason.TOO_FEW_RECORDINGS
    return recommend(standing, margin)


def gain_of(choice: Setting, base: Setting, pairs: list[Pair]) -> Gain:
    """What a setting gains over a base, with the interval and the test of their pair, if that is among the pairs."""
    gain = Gain(choice.trial, base.trial, choice.rate - base.rate, base.rate)
    for pair in pairs:
        if {pair.first, pair.second} == {choice.trial, base.trial} and pair.interval is not None:
            low, high = pair.interval.low, pair.interval.high
            interval = Interval(low, high) if pair.first is choice.trial else Interval(-high, -low)
            return replace(gain, interval=interval, shown=pair.is_significant and gain.difference < 0)
    return gain


def _half_split(tested: Tally | None) -> HalfSplit | None:
    rows = [row for row, trial in enumerate(tested.trials) if not trial.is_base] if tested else []
    return half_split(tested, rows, SEED) if tested and len(rows) > 1 else None


def _intervals(trials: list[Trial], tally: Tally | None, rate: str) -> dict[Trial, Interval]:
    """Of the tally's trials as they are compared, of others as their own records have it (of the CERs only)."""
    found = {}
    is_normalised, field = normalised_and_field(rate)
    for trial in trials:
        record: Any = trial.record.get("normalised") or {} if is_normalised else trial.record
        low, high = record.get(f"{field}_ci_low"), record.get(f"{field}_ci_high")
        if isinstance(low, int | float) and isinstance(high, int | float):
            found[trial] = Interval(float(low), float(high))
    if tally is not None and tally.has_enough:
        bounds = error_rate_intervals(tally.edits_by_recording, tally.chars_by_recording, SEED)
        found |= {trial: Interval(low, high) for trial, (low, high) in zip(tally.trials, bounds.tolist(), strict=True)}
    return found


def _setting_intervals(
    settings: list[Setting], tally: Tally | None, intervals: dict[Trial, Interval]
) -> dict[Trial, Interval]:
    """Of the means of settings; of settings that were not compared only those with one seed, as of their trials."""
    found = {
        one.trial: intervals[one.trial]
        for one in settings
        if (len(one.trials) == 1 or one.is_base) and one.trial in intervals
    }
    if tally is None or tally.seeds is None or not tally.has_enough:
        return found
    return found | dict(zip(tally.trials, intervals_of_means(tally), strict=True))


def intervals_of_means(tally: Tally) -> list[Interval]:
    """Of each row's rate: as far off as recordings and seeds put it, on the scale of logarithms.

    The standard error over recordings has the luck of adapters with single ones in it; seeds add the rest of theirs.
    """
    bounds = error_rate_intervals(tally.edits_by_recording, tally.chars_by_recording, SEED)
    if tally.seeds is not None:
        quantiles = np.array([student_quantile((1 + LEVEL) / 2, freedom) for freedom in tally.seeds.freedoms.tolist()])
        rates = np.where(tally.rates > 0, tally.rates, 1.0)[:, None]
        with np.errstate(divide="ignore"):
            reach = np.hypot(np.log(bounds / rates), (quantiles * tally.seeds.beside_recordings)[:, None])
        bounds = np.where(tally.rates[:, None] > 0, rates * np.exp(reach * [-1, 1]), bounds)
    return [Interval(low, high) for low, high in bounds.tolist()]


def resampled_means(tally: Tally, resamples: int) -> Floats | None:
    """Rates of all rows with other recordings and other seeds, ``[resamples, rows]``; None: too few recordings."""
    rates = tally.resampled(resamples, SEED)
    if rates is None or tally.seeds is None:
        return rates
    luck, estimate = tally.seeds.drawn(np.random.default_rng(SEED), resamples)
    return rates * (1 + luck * tally.seeds.beside_recordings / np.sqrt(estimate))


def _effects(comparison: Comparison, tally: Tally | None) -> tuple[list[Effect], SearchFit | None]:
    """Over the compared settings; over all of them, without the luck of the recordings, where not all were compared."""
    settings, params = [one for one in comparison.settings if not one.is_base], comparison.naming
    rows = [] if tally is None else [row for row, trial in enumerate(tally.trials) if not trial.is_base]
    of_all = tally if len(rows) > 1 and len(settings) <= MOST_COMPARED else None
    if not comparison.is_grid:
        # The luck of seeds is in the errors of this fit.
        resampled = of_all.resampled(RESAMPLES, SEED) if of_all else None
        drawn = None if resampled is None else resampled[:, rows]
        trials = [of_all.trials[row] for row in rows] if of_all else [one.trial for one in settings]
        rates = of_all.rates[rows] if of_all else np.array([one.rate for one in settings])
        return partial_dependence(trials, params, rates, drawn)
    if of_all is None:
        trials = comparison.sweep.finished
        return main_effects(trials, params, np.array([trial.rate for trial in trials]), None), None
    resampled = resampled_means(of_all, RESAMPLES)
    drawn = None if resampled is None else resampled[:, rows]
    return main_effects([of_all.trials[row] for row in rows], params, of_all.rates[rows], drawn), None
