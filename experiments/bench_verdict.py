"""``python -m experiments.bench_verdict``: how often the verdict over a sweep is right, on simulated sweeps.

The product's own functions judge trials whose true error rates are known (``simulated_trials.py``). The log stands in
``verdict.md`` beside this file; tests run small versions of the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.simulated_trials import Seeds, Speech, of_sweeps
from kimi_audio_ft.scoring.intervals import error_rate_intervals
from multirun_analysis.settings import Setting
from multirun_analysis.statistics.pairs import standard_errors
from multirun_analysis.statistics.randomisation import Randomised, randomise
from multirun_analysis.statistics.recommendation import best_group, recommend, standings
from multirun_analysis.statistics.results import ALPHA
from multirun_analysis.statistics.sample_size import needed
from multirun_analysis.statistics.selection import half_split
from multirun_analysis.statistics.summary import intervals_of_means, resampled_means
from multirun_analysis.statistics.tally import Tally, of_settings
from multirun_analysis.sweep import Scores, Status, Trial

Row = list[str]
TRIALS = 36
RECORDINGS = 125
# Part of the difficulty that trials share, by the correlation of two trials' edits that it makes.
SHARED = {0.56: 0.69, 0.75: 0.88, 0.86: 0.98}
# Log rates of a sweep over four ranks, three learning rates and three temperatures: the truly best is 0.09.
GRID = np.add.outer(
    np.add.outer([0.10, 0.03, 0.0, 0.02], [0.12, 0.0, 0.06]), [0.0, 0.03, 0.09]
).ravel()  # fmt: skip


def coverage(rng: np.random.Generator, sets: int) -> Iterator[Row]:
    """How often an interval of 95 % has the true rate in it, and on which side it misses."""
    yield ["recordings", "errors", "covered", "truth above", "truth below"]
    for recordings in (5, 12, 20, 40, 120):
        for heavy in (False, True):
            speech = Speech(recordings, by_recording=0.9, by_utterance=1.3) if heavy else Speech(recordings)
            truth, above, below = speech.true_rate(0.1), 0, 0
            for _ in range(sets):
                edits, chars = speech.edits(rng, [0.1])
                ((low, high),) = error_rate_intervals(sums(speech, edits), sums(speech, chars)[0])
                above += truth > high
                below += truth < low
            covered = 1 - (above + below) / sets
            yield [
                str(recordings),
                "heavy tails" if heavy else "moderate",
                *map(percent, (covered, above / sets, below / sets)),
            ]


def comparisons(rng: np.random.Generator, sweeps: int) -> Iterator[Row]:
    """False winners among equal trials, and worse trials found: all 36 equal; one best and 35 a tenth worse."""
    yield [
        "correlation", "a pair of equal trials called different", "the truly best ruled out",
        "worse trials ruled out as the best", "worse trials different from the best (max-T)", "the same by Holm",
    ]  # fmt: skip
    for correlation, shared in SHARED.items():
        speech, lost = Speech(RECORDINGS, shared=shared), 0
        false = [bool((judged(speech, rng, [0.1] * TRIALS)[1].p_pairs < ALPHA).any()) for _ in range(sweeps)]
        ruled_out, different, by_holm = [], [], []
        for _ in range(sweeps):
            tally, found = judged(speech, rng, [0.09] + [0.1] * (TRIALS - 1))
            lost += found.p_best[0] < ALPHA
            ruled_out.append((found.p_best[1:] < ALPHA).mean())
            different.append((found.p_pairs[: TRIALS - 1] < ALPHA).mean())
            by_holm.append(holm(tally)[: TRIALS - 1].mean())
        shares = (np.mean(false), lost / sweeps, np.mean(ruled_out), np.mean(different), np.mean(by_holm))
        yield [f"{correlation:.2f}", *(percent(float(share)) for share in shares)]


def recommendations(rng: np.random.Generator, sweeps: int) -> Iterator[Row]:
    """How much worse than the truly best the recommended trial is, over a grid of 36 settings of unequal cost."""
    yield [
        "correlation", "recordings", "recommended is 5 % worse or more", "mean excess of the recommended",
        "the cheapest of the best group: 5 % worse or more", "its mean excess", "best group",
    ]  # fmt: skip
    rates = 0.09 * np.exp(GRID - GRID.min())
    for correlation, shared in SHARED.items():
        for recordings in (30, RECORDINGS):
            speech, chosen, cheapest, sizes = Speech(recordings, shared=shared), [], [], []
            for _ in range(sweeps):
                tally, found = judged(speech, rng, rates.tolist(), order=True)
                standing = standings(tally, found)
                group = best_group(standing)
                chosen.append(int(recommend(standing)[0].name))
                cheapest.append(int(min(group, key=lambda trial: trial.record["trainable_parameters"]).name))
                sizes.append(len(group))
            figures = []
            for kind in (chosen, cheapest):
                excess = rates[kind] / rates.min() - 1
                figures += [percent(float((excess >= 0.05).mean())), percent(float(excess.mean()))]
            yield [f"{correlation:.2f}", str(recordings), *figures, f"{np.mean(sizes):.1f} of {TRIALS}"]


def sizes_needed(rng: np.random.Generator, sweeps: int) -> Iterator[Row]:
    """How often the second trial is ruled out on a set of the stated size; the goal is 75 to 85 %.

    The first set is large, so that what it says of the difference is nearly true; it is then asked for a set for which
    the true difference is what it saw.
    """
    yield ["correlation", "trials", "recordings needed, median", "the second is ruled out"]
    for correlation, shared in SHARED.items():
        for trials in (2, 12, TRIALS):
            speech, sizes, power = Speech(50, shared=shared), [], []
            for _ in range(max(2, sweeps // 20)):
                tally, found = judged(speech, rng, [0.09, 0.098] + [0.12] * (trials - 2), order=True)
                need = needed(tally, found)
                if need is None or need.recordings is None or need.recordings > 5_000:
                    continue
                sizes.append(need.recordings)
                sums = tally.whole_edits
                drawn = rng.integers(speech.recordings, size=(20, need.recordings))
                power.append(np.mean([randomise(sums[:, one]).p_best[1] < ALPHA for one in drawn]))
            yield [f"{correlation:.2f}", str(trials), f"{np.median(sizes):.0f}", percent(float(np.mean(power)))]


def seeds(rng: np.random.Generator, sweeps: int) -> Iterator[Row]:
    """Settings compared by the means of their seeds, which differ by 3 %; of 24 the best 3 get 2 more."""
    yield [
        "correlation", "settings", "seeds", "equal settings called different", "the same, without the seeds' luck",
        "the truly best ruled out", "settings a tenth worse ruled out",
    ]  # fmt: skip
    for correlation, shared in SHARED.items():
        for settings, number, finalists in ((6, 2, 0), (6, 3, 0), (6, 5, 0), (24, 1, 3)):
            speech, found = Speech(RECORDINGS, shared=shared), []
            for best in (0.1, 0.09):
                drawn = Seeds([best] + [0.1] * (settings - 1), [number] * settings)
                found.append(of_sweeps(speech, drawn, sweeps, int(rng.integers(2**31)), finalists))
            equal, worse = found
            shares = (equal.different, equal.different_adapters, worse.best_lost, worse.ruled_out)
            said = f"{number}, best {finalists}: 3" if finalists else str(number)
            yield [f"{correlation:.2f}", str(settings), said, *map(percent, shares)]


def means(rng: np.random.Generator, sweeps: int) -> Iterator[Row]:
    """How often the interval of a setting's mean has the true rate in it, and an effect's that there is none."""
    yield ["correlation", "seeds", "their spread", "means covered", "effects covered"]
    for correlation, shared in SHARED.items():
        for number, spread in ((2, 0.03), (2, 0.1), (3, 0.03), (3, 0.1), (5, 0.1)):
            speech, drawn = Speech(30, shared=shared), Seeds([0.1] * 6, [number] * 6, spread)
            truth, covered, effects = speech.true_rate(0.1), [], []
            for _ in range(sweeps):
                edits, chars = speech.edits(rng, drawn.rates(rng))
                trials = [trial_of(place, 0.1) for place in range(len(edits))]
                made = Tally(trials, edits, np.ones(len(edits), np.int64), chars, speech.names)
                tally = of_settings(made, [Setting(trials[row : row + number]) for row in range(0, len(edits), number)])
                covered += [one.low <= truth <= one.high for one in intervals_of_means(tally)]
                rates = resampled_means(tally, 1000)
                assert rates is not None
                low, high = np.percentile(rates - rates.mean(axis=1, keepdims=True), [2.5, 97.5], axis=0)
                effects += ((low <= 0) & (high >= 0)).tolist()
            shares = map(percent, (spread, float(np.mean(covered)), float(np.mean(effects))))
            yield [f"{correlation:.2f}", str(number), *shares]


def sums(speech: Speech, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each recording, ``[trials, recordings]``."""
    return counts.reshape(-1, speech.recordings, speech.utterances).sum(axis=2).astype(float)


def selection(rng: np.random.Generator, sweeps: int) -> Iterator[Row]:
    """How far the CER of the best of equal trials lies below the truth, and what the half-split estimate says of it."""
    yield [
        "trials",
        "recordings",
        "correlation",
        "the best CER",
        "the half-split estimate",
        "the interval of the best CER covers",
    ]
    for trials, recordings in ((24, 12), (24, 60), (TRIALS, RECORDINGS)):
        for correlation, shared in SHARED.items():
            speech = Speech(recordings, shared=shared)
            truth, best, estimated, covered = speech.true_rate(0.1), [], [], 0
            for _ in range(sweeps):
                tally, _ = judged(speech, rng, [0.1] * trials, order=True)
                split = half_split(tally, list(range(trials)), seed=0)
                best.append(split.lowest / truth - 1)
                estimated.append(split.expected / truth - 1)
                ((low, high),) = error_rate_intervals(tally.edits_by_recording[:1], tally.chars_by_recording)
                covered += low <= truth <= high
            shares = (float(np.mean(best)), float(np.mean(estimated)), covered / sweeps)
            yield [str(trials), str(recordings), f"{correlation:.2f}", *map(percent, shares)]


def judged(
    speech: Speech, rng: np.random.Generator, rates: list[float], order: bool = False
) -> tuple[Tally, Randomised]:
    """A sweep of such true rates; with ``order`` as on the leaderboard: by the rates that were seen."""
    edits, chars = speech.edits(rng, rates)
    places = np.argsort(edits.sum(axis=1), kind="stable") if order else np.arange(len(rates))
    trials = [trial_of(int(place), edits[place].sum() / chars.sum()) for place in places]
    tally = Tally(trials, edits[places], np.ones(len(rates), np.int64), chars, speech.names)
    return tally, randomise(tally.whole_edits)


def trial_of(number: int, cer: float) -> Trial:
    """Ranks of 4, 8, 16 and 32 cost as much as their numbers."""
    scores = Scores(**dict.fromkeys(Scores.__dataclass_fields__) | {"cer": float(cer)})  # type: ignore[arg-type]
    cost = {"trainable_parameters": 1000 * 2 ** (number // 9)}
    return Trial(str(number), Path(str(number)), Status.COMPLETED, {}, record=cost, strict=scores)


def holm(tally: Tally) -> NDArray[np.bool_]:
    """Pairs that Holm's correction of t tests over recordings calls different: the way it was until November 2026."""
    from scipy.stats import t as student

    first, second = np.triu_indices(len(tally.trials), 1)
    errors = standard_errors(tally)[first, second]
    p = 2 * student.sf(np.abs(tally.rates[first] - tally.rates[second]) / errors, tally.num_recordings - 1)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    different = np.empty(len(p), bool)
    different[order] = adjusted < ALPHA
    return different


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


STUDIES = {
    "Intervals": (coverage, 5),
    "Comparisons of 36 trials on 125 recordings": (comparisons, 1),
    "The recommended trial": (recommendations, 1),
    "Utterances needed": (sizes_needed, 1),
    "The luck of the choice": (selection, 1),
    "Seeds": (seeds, 1),
    "Means of six equal settings on 30 recordings": (means, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=200, help="simulated sweeps of each row (default 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(STUDIES), help="one table of them")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    for title in [options.only] if options.only else STUDIES:
        study, times = STUDIES[title]
        started = time.perf_counter()
        header, *rows = study(rng, times * options.sweeps)
        print(f"## {title}\n\n{line(header)}\n{line(['---:'] * len(header))}")
        print("\n".join(map(line, rows)), f"\n\n{time.perf_counter() - started:.0f} s\n", sep="", flush=True)


def line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
