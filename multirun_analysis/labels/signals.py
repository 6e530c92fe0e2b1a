"""Signs of label errors, and their combination into a ranking.

Three signs are graded:

``loss``
    negative log-likelihood of the reference given the audio: mean nats per answer token, averaged over the adapters
    (confident learning's "self-confidence", arXiv 1911.00068, for sequences);
``disagreement``
    mean distance of the adapters' transcripts to the reference, minus that between the transcripts: near 1 if all
    agree on something else than the reference, about 0 if they are merely unsure;
``speed``
    deviation of the characters per second from the data set's range of 3 robust standard deviations.

Each sign becomes a percentile (the share of references with a lower value, ties count half); the *score* of a
reference is the mean of its available percentiles. Two binary signs come first, sorted by the same score: the same
audio with another text, one of which must be wrong, and an empty reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring import normalise
from multirun_analysis.labels.evidence import FIRST_COMMAND, Evidence, Utterance
from multirun_analysis.labels.same_audio import Listening, listen, other_texts

DEGREES = ("loss", "disagreement", "speed")
SPEED_RANGE = 3.0
"""Robust standard deviations of the logarithm of the speed that are still in range."""

_DIGITS = 9  # rounding, so that equal disagreements tie
_MAD_TO_STD = 1.4826  # for a normal distribution


@dataclass(frozen=True)
class Ranking:
    """Utterances by suspicion, the most suspicious first, with their signs by id.

    table: one row per utterance, in that order: ``score``, the values of ``DEGREES`` (NaN if unknown), their
    percentiles ``<sign>_percentile``, ``chars_per_second`` and ``seconds``.
    other_text: an utterance with the same audio and another text.
    usual_speed: limits of the range, characters per second; None if speeds are unknown or all equal.
    """

    evidence: Evidence
    order: list[Utterance]
    table: pd.DataFrame
    other_text: dict[str, Utterance]
    usual_speed: tuple[float, float] | None
    notes: list[str]

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
    table["loss"] = [fmean(u.losses.values()) if u.losses else math.nan for u in utterances]
    table["disagreement"] = [disagreement(utterance) for utterance in utterances]
    counts = np.array([len(text.replace(" ", "")) for text in texts.values()])
    table["chars_per_second"] = counts / table["seconds"].where(table["seconds"] > 0)
    table["speed"], usual = out_of_range(table["chars_per_second"])
    for sign in DEGREES:
        table[f"{sign}_percentile"] = percentiles(table[sign])
    table["score"] = table[[f"{sign}_percentile" for sign in DEGREES]].mean(axis=1).fillna(0.0)
    other_text = other_texts(heard.same, texts)
    table["certain"] = [name in other_text or not text for name, text in texts.items()]
    table = table.sort_values(["certain", "score"], ascending=False, kind="stable")
    by_id = {utterance.id: utterance for utterance in utterances}
    notes = [*evidence.notes, *_notes(evidence, table, heard, len(heard.same) - len(other_text))]
    return Ranking(evidence, [by_id[name] for name in table.index], table, other_text, usual, notes)


def plain(text: str) -> str:
    """Text normalised for comparison: case, width, punctuation and white space are ignored."""
    return normalise(text, "normalised")


def distance(first: str, second: str) -> float:
    """Edit distance of two normalised texts divided by the longer length, 0 to 1."""
    return Levenshtein.normalized_distance(plain(first), plain(second))


def disagreement(utterance: Utterance) -> float:
    """Mean distance of transcripts to the reference, minus that between transcripts; NaN with fewer than two."""
    votes = list(utterance.votes.values())
    if len(votes) < 2:
        return math.nan
    to_reference = fmean(distance(vote, utterance.reference) for vote in votes)
    between = fmean(distance(one, other) for one, other in combinations(votes, 2))
    return round(to_reference - between, _DIGITS)


def consensus(utterance: Utterance, adapters: Iterable[str]) -> str:
    """The transcript nearest to all others; ties go to the first adapter."""
    votes = [utterance.votes[adapter] for adapter in adapters if adapter in utterance.votes]
    return min(votes, key=lambda vote: sum(distance(vote, other) for other in votes))


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
    lacking = "no losses were written" if lost == len(table) else f"{lost} references have no loss"
    notes = {
        f"{lacking}; evaluate with losses=true writes them": lost,
        "one adapter cannot agree with another: disagreement is left out": len(evidence.adapters) < 2,
        f"speed is unknown for {unheard} references, whose audio's length is not known": unheard,
        f"{heard.missing} recordings cannot be read here and were not compared with each other": heard.missing,
        f"{repeated} references occur more than once, with the same audio and the same text": repeated,
    }
    return [note for note, applies in notes.items() if applies]
