"""Edits of simulated trials whose true error rates are known, as tests and studies of the statistics need them.

An utterance's difficulty has a part that all trials share and one of each trial's own, both with a part of its
recording: how much is shared sets the correlation of two trials' edits, which is 0.5 to 0.7 in real sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.results import ALPHA
from multirun_analysis.statistics.seeds import seed_errors


@dataclass(frozen=True)
class Speech:
    """Recordings of a kind.

    shared: part of the variance of log difficulty that trials have in common: 0.8 correlates the edits of two trials by
    about 0.65, 0.96 by about 0.82. by_recording, by_utterance: standard deviations of log difficulty.
    """

    recordings: int = 120
    utterances: int = 8
    shared: float = 0.8
    by_recording: float = 0.5
    by_utterance: float = 1.0

    def edits(self, rng: np.random.Generator, rates: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Edits ``[trials, utterances]`` of trials with such error rates, and characters ``[utterances]``."""
        trials, shape = len(rates), (self.recordings, self.utterances)
        chars = np.clip(rng.lognormal(2.9, 0.5, shape), 3, 80).round().astype(np.int64)
        difficulty = np.sqrt(self.shared) * self._drawn(rng, 1) + np.sqrt(1 - self.shared) * self._drawn(rng, trials)
        variance = self.by_recording**2 + self.by_utterance**2
        wrong = np.asarray(rates)[:, None, None] * np.exp(difficulty - variance / 2)
        edits = rng.binomial(chars, np.minimum(wrong, 0.98))
        return edits.reshape(trials, -1), chars.ravel()

    def true_rate(self, rate: float) -> float:
        """The error rate over endless speech: the cap on what one utterance can have wrong costs a little."""
        return _rate_of(replace(self, recordings=200_000, utterances=5), rate)

    @property
    def names(self) -> list[str]:
        """The recording of every utterance."""
        return [f"r{recording}" for recording in range(self.recordings) for _ in range(self.utterances)]

    def _drawn(self, rng: np.random.Generator, trials: int) -> NDArray[np.float64]:
        of_recordings = rng.normal(0, self.by_recording, (trials, self.recordings, 1))
        return of_recordings + rng.normal(0, self.by_utterance, (trials, self.recordings, self.utterances))


@dataclass(frozen=True)
class Seeds:
    """Settings with such true error rates and numbers of seeds; an adapter's own rate differs by ``spread`` of it."""

    settings: Sequence[float]
    numbers: Sequence[int]
    spread: float = 0.03

    def rates(self, rng: np.random.Generator) -> list[float]:
        """Of every adapter, setting by setting."""
        means = np.repeat(np.asarray(self.settings), self.numbers)
        return (means * np.maximum(1 + self.spread * rng.normal(size=len(means)), 0.05)).tolist()


@dataclass(frozen=True)
class Verdicts:
    """Shares of simulated sweeps, the first setting being the best or equal to all.

    different: some pair of equal settings is called different; different_adapters: the same when the seeds' luck is
    left out. best_lost: the first setting is ruled out as the best. ruled_out: mean share of the others that are.
    """

    different: float
    different_adapters: float
    best_lost: float
    ruled_out: float


def of_sweeps(
    speech: Speech, seeds: Seeds, sweeps: int, seed: int = 0, finalists: int = 0, further: int = 2
) -> Verdicts:
    """Compare the settings of so many simulated sweeps.

    finalists: so many settings with the lowest error rates are trained with ``further`` seeds more.
    """
    rng, counted = np.random.default_rng(seed), []
    first, second = np.triu_indices(len(seeds.settings), 1)
    truth = np.asarray(seeds.settings)
    equal = truth[first] == truth[second]
    for _ in range(sweeps):
        settings = _drawn(speech, seeds, rng, finalists, further)
        means = np.stack([edits.mean(axis=0) for edits in settings])
        found = randomise(means, seed, seed_errors(settings, [True] * len(settings)))
        plain = randomise(means, seed)
        others = found.p_best[1:] < ALPHA
        counted.append(
            [
                (found.p_pairs < ALPHA)[equal].any(),
                (plain.p_pairs < ALPHA)[equal].any(),
                found.p_best[0] < ALPHA,
                others.mean(),
            ]
        )
    return Verdicts(*np.mean(counted, axis=0).tolist())


def _drawn(
    speech: Speech, seeds: Seeds, rng: np.random.Generator, finalists: int, further: int
) -> list[NDArray[np.float64]]:
    """Edits ``[seeds, recordings]`` of each setting."""
    most = [number + (further if finalists else 0) for number in seeds.numbers]
    edits, _ = speech.edits(rng, Seeds(seeds.settings, most, seeds.spread).rates(rng))
    by_recording = edits.reshape(len(edits), speech.recordings, -1).sum(axis=2).astype(float)
    settings = np.split(by_recording, np.cumsum(most)[:-1])
    totals = [one[:number].sum() / number for one, number in zip(settings, seeds.numbers, strict=True)]
    chosen = np.argsort(totals)[:finalists].tolist()
    return [
        one if row in chosen else one[:number]
        for row, (one, number) in enumerate(zip(settings, seeds.numbers, strict=True))
    ]


@cache
def _rate_of(speech: Speech, rate: float) -> float:
    edits, chars = speech.edits(np.random.default_rng(0), [rate])
    return float(edits.sum() / chars.sum())
