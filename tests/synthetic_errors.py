"""Mandarin references and seeded errors in them whose rate is known: what the synthetic sweep is made of."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.demo.sentences import generate

_WRONG = "他她它时事是市里力历在再做作中种心新想像向有又由到道地得会回为位路录先线现出处进近前钱工公高告开"
MARKS = "，。"


@dataclass(frozen=True)
class Planted:
    """What is true of a synthetic sweep.

    cer: expected error rate where all factors are 1. base_cer: that of the model without adapter.
    factors: by parameter and value, what the rate is multiplied with; 1 for what is not named.
    recording_spread: standard deviation of the log of a recording's difficulty, the same for all trials.
    trial_spread: the same of what a recording is to one adapter alone; it makes the differences between two trials
        alike within a recording, although they are none on average.
    shared, own: parts of all errors whose cause all trials share, and all decodings of one adapter; the rest differs
        between samplings.
    turned: epoch at which the validation loss of an adapter (rank, rate) turns.
    """

    cer: float = 0.08
    base_cer: float = 0.21
    factors: Mapping[str, Mapping[Any, float]] = field(
        default_factory=lambda: {
            "lora.r": {8: 1.10, 16: 1.0, 32: 1.0},
            "optim.lr": {2e-5: 1.30, 5e-5: 1.0, 1e-4: 1.10},
            "decoding.text_temperature": {0.0: 1.0, 0.1: 1.0, 0.2: 1.05, 0.3: 1.15},
        }
    )
    recording_spread: float = 0.4
    trial_spread: float = 0.0
    shared: float = 0.75
    own: float = 0.15
    turned: Mapping[tuple[int, float], float] = field(default_factory=lambda: {(32, 1e-4): 3.0})

    def rate(self, params: Mapping[str, Any]) -> float:
        """Expected error rate of a trial with these parameters."""
        rate = self.cer
        for param, factors in self.factors.items():
            rate *= factors.get(params.get(param), 1.0)
        return rate


@dataclass(frozen=True)
class Corpus:
    """References of 8 to 40 characters in recordings of unequal length, and how each character would be misheard."""

    utterances: int
    recordings: int
    seed: int

    @cached_property
    def references(self) -> list[str]:
        rng = random.Random(f"texts {self.seed}")
        texts = [one.text for one in generate("general", 2000, self.seed)]
        plain = [text for text in texts if not any(char.isascii() for char in text)]
        return ["，".join(rng.sample(plain, rng.choice((1, 2, 2, 3)))) + "。" for _ in range(self.utterances)]

    @cached_property
    def recording_of(self) -> NDArray[np.intp]:
        """The recording of each utterance, ``[utterances]``; every recording has one, the long ones several times."""
        rng = np.random.default_rng([1, self.seed])
        share = rng.dirichlet(np.full(self.recordings, 4.0))
        rest = rng.choice(self.recordings, size=self.utterances - self.recordings, p=share)
        return np.sort(np.concatenate([np.arange(self.recordings), rest]))

    @cached_property
    def lengths(self) -> NDArray[np.intp]:
        """Characters of each reference, ``[utterances]``."""
        return np.array([len(text) for text in self.references])

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """Where each reference begins in all of them put together, ``[utterances]``."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def _pieces(self) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
        """Every character as it is and as it is misheard: 70 % replaced, 20 % left out, 10 % followed by another."""
        rng = random.Random(f"errors {self.seed}")
        right = list("".join(self.references))
        wrong = []
        for char in right:
            other = rng.choice(_WRONG.replace(char, ""))
            kind = rng.random()
            wrong.append("" if char in MARKS or kind > 0.8 else char + other if kind > 0.7 else other)
        return np.array(right, dtype=object), np.array(wrong, dtype=object)

    def hypotheses(self, errors: NDArray[np.bool_]) -> list[str]:
        """What is heard when the characters of ``errors``, ``[characters]``, are misheard."""
        right, wrong = self._pieces
        heard = np.where(errors, wrong, right).tolist()
        ends = self.starts + self.lengths
        return ["".join(heard[start:end]) for start, end in zip(self.starts, ends, strict=True)]


class ErrorModel:
    """Draws the characters that a trial gets wrong."""

    def __init__(self, corpus: Corpus, planted: Planted, seed: int) -> None:
        self.corpus, self.planted, self.seed = corpus, planted, seed
        rng = np.random.default_rng([2, seed])
        chars = np.bincount(corpus.recording_of, weights=corpus.lengths)
        difficulty = np.exp(planted.recording_spread * rng.standard_normal(corpus.recordings))
        self.difficulty = difficulty * chars.sum() / (difficulty @ chars)
        self.cause = rng.random(int(chars.sum()))
        self.shared = rng.random(int(chars.sum()))

    def errors(self, adapter: str, rate: float, sampling: str = "") -> NDArray[np.bool_]:
        """Which characters are wrong, ``[characters]``, of one sampling by one adapter at an expected ``rate``."""
        planted, corpus = self.planted, self.corpus
        own = np.random.default_rng([3, self.seed, zlib.crc32(adapter.encode())])
        spread = planted.trial_spread
        taste = np.exp(spread * own.standard_normal(corpus.recordings) - spread**2 / 2)
        luck = np.where(self.cause < planted.shared, self.shared, own.random(len(self.shared)))
        drawn = np.random.default_rng([4, self.seed, zlib.crc32(f"{adapter} {sampling}".encode())])
        luck = np.where(self.cause < planted.shared + planted.own, luck, drawn.random(len(luck)))
        chance = np.minimum(rate * self.difficulty * taste, 0.95)[corpus.recording_of]
        return luck < np.repeat(chance, corpus.lengths)

    def counts(self, errors: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Wrong characters of each utterance, ``[utterances]``."""
        return np.add.reduceat(errors.astype(np.intp), self.corpus.starts)
