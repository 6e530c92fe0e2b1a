"""Signs of label errors, and their combination into a ranking.

Four signs are graded:

``surprise``
    the largest loss of one token, in multiples of what is usual for such a token (see ``surprise.py``);
``loss``
    negative log-likelihood of the reference given the audio: mean nats per answer token (confident learning's
    "self-confidence", arXiv 1911.00068, for sequences);
``disagreement``
    mean distance of the adapters' transcripts to the reference, minus that between two of them: near 1 if all agree on
    something else than the reference, about 0 if they hear what it says or are merely unsure;
``speed``
    deviation of the characters per second from the range of 3 robust standard deviations of texts in the same script.

An adapter counts by its own error rate in the first three (``Evidence.weights``). Each sign becomes a percentile p (the
share of references with a lower value, ties count half); the *score* of a reference is the weighted sum of -log(1 - p),
Fisher's combination, in which one strong sign is enough. Disagreement weighs as much as the best adapter: transcripts
of which a third is wrong say little of a single one. Two binary signs come first, sorted by the same score: the same
audio with another text, one of which must be wrong, and an empty reference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import regex
from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring import normalise
from multirun_analysis.labels.evidence import FIRST_COMMAND, Evidence, Utterance
from multirun_analysis.labels.same_audio import Listening, listen, other_texts
from multirun_analysis.labels.surprise import Surprise, surprises

DEGREES = ("surprise", "loss", "disagreement", "speed")
SPEED_RANGE = 3.0
"""Robust standard deviations of the logarithm of the speed that are still in range."""
FEW = 20
"""Of fewer references in one script nobody knows the usual speed."""

_DIGITS = 9  # rounding, so that equal disagreements tie
_MAD_TO_STD = 1.4826  # for a normal distribution
_SCRIPTS = {name: regex.compile(rf"\p{{{name}}}") for name in ("Han", "Latin", "Hangul", "Cyrillic", "Arabic", "Thai")}
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
_MOST = 0.8  # of the letters, in a text that is not mixed


@dataclass(frozen=True)
class Ranking:
    """Utterances by suspicion, the most suspicious first, with their signs by id.

    table: one row per utterance, in that order: ``score``, the values of ``DEGREES`` (NaN if unknown), their
    percentiles ``<sign>_percentile``, ``chars_per_second``, ``seconds`` and ``script``.
    surprises: the most surprising word of each reference that has token losses.
    other_text: an utterance with the same audio and another text.
    usual_speed: by script, limits of the range, characters per second; without those that are unknown or all equal.
    """

    evidence: Evidence
    order: list[Utterance]
    table: pd.DataFrame
    surprises: dict[str, Surprise]
    other_text: dict[str, Utterance]
    usual_speed: dict[str, tuple[float, float]]
    notes: list[str]

    @cached_property
    def values(self) -> dict[str, dict[str, Any]]:
        """Rows of the table by id: looking one up in the table takes a thousand times as long."""
        rows = self.table.to_dict("records")
        return {
            name: {str(key): value for key, value in row.items()}
            for name, row in zip(self.table.index, rows, strict=True)
        }

    @cached_property
    def _best(self) -> dict[str, str]:
        return {}

    def heard(self, utterance: Utterance) -> str:
        """The best hypothesis of an utterance, see ``consensus``; remembered."""
        if utterance.id not in self._best:
            self._best[utterance.id] = consensus(utterance, self.evidence.weights)
        return self._best[utterance.id]

    @cached_property
    def signs(self) -> list[str]:
        """Graded signs that at least one reference has."""
        return [sign for sign in DEGREES if self.table[sign].notna().any()]


def rank_suspects(evidence: Evidence) -> Ranking:
    """Sort the references by how likely they are wrong.

    Raises:
        UserError: there are neither losses nor two adapters to compare.
    """
    utterances = evidence.utterances
    if len(evidence.adapters) < 2 and not any(utterance.losses for utterance in utterances):
        raise UserError(
            "labels: one adapter without losses says too little. Give the folders of two adapters or more, or of an "
            f"evaluation with losses=true. {FIRST_COMMAND}"
        )
    texts = {utterance.id: plain(utterance.reference) for utterance in utterances}
    heard = listen(utterances)
    table = pd.DataFrame(index=[utterance.id for utterance in utterances])
    table["seconds"] = [utterance.seconds or heard.seconds.get(utterance.id, math.nan) for utterance in utterances]
    weights = evidence.weights
    surprising = surprises(utterances, weights)
    table["surprise"] = [surprising[u.id].value if u.id in surprising else math.nan for u in utterances]
    table["loss"] = [_mean(u.losses, weights) if u.losses else math.nan for u in utterances]
    table["disagreement"] = [disagreement(utterance, weights) for utterance in utterances]
    counts = np.array([len(text.replace(" ", "")) for text in texts.values()])
    table["chars_per_second"] = counts / table["seconds"].where(table["seconds"] > 0)
    table["script"] = [script_of(text) for text in texts.values()]
    table["speed"], usual = by_script(table)
    table["score"] = 0.0
    for sign in DEGREES:
        table[f"{sign}_percentile"] = percentiles(table[sign])
        weight = max(weights.values()) if sign == "disagreement" else 1.0
        # The mean of -log(1 - p) stands for a sign that is unknown.
        table["score"] += weight * (-np.log1p(-table[f"{sign}_percentile"])).fillna(1.0)
    other_text = other_texts(heard.same, texts)
    table["certain"] = [name in other_text or not text for name, text in texts.items()]
    table = table.sort_values(["certain", "score"], ascending=False, kind="stable")
    by_id = {utterance.id: utterance for utterance in utterances}
    notes = [*evidence.notes, *_notes(evidence, table, heard, len(heard.same) - len(other_text))]
    return Ranking(evidence, [by_id[name] for name in table.index], table, surprising, other_text, usual, notes)


def plain(text: str) -> str:
    """Text normalised for comparison: case, width, punctuation and white space are ignored."""
    return normalise(text, "normalised")


def distance(first: str, second: str) -> float:
    """Edit distance of two normalised texts divided by the longer length, 0 to 1."""
    return Levenshtein.normalized_distance(plain(first), plain(second))


def disagreement(utterance: Utterance, weights: Mapping[str, float]) -> float:
    """Mean distance of transcripts to the reference, minus that between two of them; NaN with fewer than two.

    Both transcripts of a pair are drawn by the adapters' weights, so that one of them may be drawn twice.
    """
    votes = utterance.votes
    if len(votes) < 2:
        return math.nan
    total = sum(weights[adapter] for adapter in votes)
    to_reference = _mean({adapter: distance(vote, utterance.reference) for adapter, vote in votes.items()}, weights)
    between = sum(
        weights[one] * weights[other] * distance(votes[one], votes[other]) for one, other in combinations(votes, 2)
    )
    return round(to_reference - 2 * between / total**2, _DIGITS)


def consensus(utterance: Utterance, weights: Mapping[str, float]) -> str:
    """The transcript nearest to all others, by the adapters' weights; ties go to the better adapter."""
    votes = {adapter: utterance.votes[adapter] for adapter in weights if adapter in utterance.votes}
    return min(
        votes.values(), key=lambda vote: sum(weights[other] * distance(vote, text) for other, text in votes.items())
    )


def _mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Over adapters, by their weights."""
    return sum(weights[adapter] * value for adapter, value in values.items()) / sum(weights[name] for name in values)


def script_of(text: str) -> str:
    """The script of most letters of a text, "mixed" if the others are more than a fifth, "" without letters."""
    found = Counter({name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()})
    found["Kana"] = len(_KANA.findall(text)) + (found.pop("Han") if _KANA.search(text) else 0)  # Japanese has both
    letters = sum(char.isalpha() for char in text)
    name, count = found.most_common(1)[0]
    if not letters:
        return ""
    return name if count >= _MOST * letters else "mixed"


def by_script(table: pd.DataFrame) -> tuple[pd.Series, dict[str, tuple[float, float]]]:
    """``out_of_range`` within every script, as English has three times as many characters a second as Mandarin.

    NaN where a script has fewer than ``FEW`` references of known length.
    """
    speed = pd.Series(math.nan, index=table.index)
    usual: dict[str, tuple[float, float]] = {}
    for script, own in table.groupby("script")["chars_per_second"]:
        if own.count() >= FEW:
            speed[own.index], found = out_of_range(own)
            usual |= {} if found is None else {str(script): found}
    return speed, usual


def out_of_range(speeds: pd.Series) -> tuple[pd.Series, tuple[float, float] | None]:
    """Robust standard deviations by which each speed is out of range (0 within), and the range.

    Computed on logarithms, which are nearly normal, with median and median absolute deviation, which ignore outliers.
    """
    logs = np.log(speeds.clip(lower=1e-3))
    middle = logs.median()
    spread = _MAD_TO_STD * (logs - middle).abs().median()
    if not spread > 0:  # unknown, or all alike
        return speeds * math.nan, None
    excess = ((logs - middle).abs() / spread - SPEED_RANGE).clip(lower=0.0)
    return excess, (math.exp(middle - SPEED_RANGE * spread), math.exp(middle + SPEED_RANGE * spread))


def percentiles(values: pd.Series) -> pd.Series:
    """Share of the known values that are lower, ties count half; NaN stays."""
    return (values.rank(method="average") - 0.5) / values.count()


def _notes(evidence: Evidence, table: pd.DataFrame, heard: Listening, repeated: int) -> list[str]:
    """Notes on missing losses, lengths and recordings, and on repeated references."""
    lost, unheard = (int(table[sign].isna().sum()) for sign in ("loss", "speed"))
    tokens = not table["surprise"].notna().any()
    lacking = "no losses were written" if lost == len(table) else f"{lost} references have no loss"
    notes = {
        "evaluations of an earlier version: no losses of single tokens; repeat them to find small errors": (
            tokens and lost < len(table)
        ),
        f"{lacking}; evaluate with losses=true writes them": lost,
        "one adapter cannot agree with another: disagreement is left out": len(evidence.adapters) < 2,
        f"speed is unknown for {unheard} references: of unknown length, or fewer than {FEW} in their script": unheard,
        f"{heard.missing} recordings cannot be read here and were not compared with each other": heard.missing,
        f"{repeated} references occur more than once, with the same audio and the same text": repeated,
    }
    return [note for note, applies in notes.items() if applies]
