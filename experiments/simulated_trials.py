"""Edits of simulated trials whose true error rates are known, as tests and studies of the statistics need them.

An utterance's difficulty has a part that all trials share and one of each trial's own, both with a part of its
recording: how much is shared sets the correlation of two trials' edits, which is 0.5 to 0.7 in real sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
        edits, chars = Speech(200_000, 5, self.shared, self.by_recording, self.by_utterance).edits(
            np.random.default_rng(0), [rate]
        )
        return float(edits.sum() / chars.sum())

    @property
    def names(self) -> list[str]:
        """The recording of every utterance."""
        return [f"r{recording}" for recording in range(self.recordings) for _ in range(self.utterances)]

    def _drawn(self, rng: np.random.Generator, trials: int) -> NDArray[np.float64]:
        of_recordings = rng.normal(0, self.by_recording, (trials, self.recordings, 1))
        return of_recordings + rng.normal(0, self.by_utterance, (trials, self.recordings, self.utterances))
