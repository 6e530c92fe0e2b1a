"""The token of a reference that surprises the adapters most, and the word it falls in."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from multirun_analysis.labels.evidence import Utterance

# How many tokens of average loss are added to what is known of a kind: a rare one's usual loss is the average.
_PRIOR = 5
# Neighbours that surprise at least so much, as a part of the largest surprise, belong to the suspect word.
_NEIGHBOUR = 0.5
_WHOLE_WORD = re.compile(r"[0-9.:%]+|[A-Za-z'-]+")
_END = ""


@dataclass(frozen=True)
class Surprise:
    """The largest loss of a token, in multiples of what is usual for such a token, and its place.

    value: ``times`` minus the logarithm of the number of tokens, as a long text has more chances of a large loss.
    start, end: characters of the reference in NFC; both its length for the end of the text.
    """

    times: float
    value: float
    start: int
    end: int


def surprises(utterances: Sequence[Utterance], weights: Mapping[str, float]) -> dict[str, Surprise]:
    """By id; without those that have no token losses.

    Losses of a kind of token (its text, or the end of an answer) are about exponential: a loss of x times the usual one
    is exceeded with probability exp(-x). So a text that ends too early is found by its end, usually of a small loss.
    Usual losses are each adapter's own, from all other tokens of the kind; multiples are averaged over the adapters.
    """
    multiples: dict[str, NDArray[np.float64]] = {}
    shares: dict[str, float] = defaultdict(float)
    kinds = {utterance.id: _kinds(utterance) for utterance in utterances if utterance.token_losses}
    for adapter, weight in weights.items():
        own = [utterance for utterance in utterances if adapter in utterance.token_losses]
        for name, found in _multiples(own, adapter, kinds).items():
            multiples[name] = multiples.get(name, 0.0) + weight * found
            shares[name] += weight
    by_id = {utterance.id: utterance for utterance in utterances}
    return {name: _largest(by_id[name], found / shares[name]) for name, found in multiples.items()}


def parted_at(reference: str, surprise: Surprise) -> tuple[str, str, str]:
    """The text before the suspect word, the word ("" for the end of the text), and the text behind it."""
    text = unicodedata.normalize("NFC", reference)
    return text[: surprise.start], text[surprise.start : surprise.end], text[surprise.end :]


def heard_at(reference: str, hypothesis: str, surprise: Surprise) -> str:
    """The part of a transcript that stands for the suspect word, or that follows where the text ends."""
    reference = unicodedata.normalize("NFC", reference)
    places = [0] * (len(reference) + 1)  # of each character of the reference in the transcript
    for step in Levenshtein.opcodes(reference, hypothesis):
        for offset in range(step.src_end - step.src_start):
            places[step.src_start + offset] = min(step.dest_start + offset, step.dest_end)
        if step.tag != "insert":
            places[step.src_end] = step.dest_end
    if surprise.start == len(reference):
        return hypothesis[places[-1] :]
    start, end = _whole_words(hypothesis, places[surprise.start], places[surprise.end])
    return hypothesis[start:end]


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """A stretch of text, with all of the numbers and Latin words that it has a part of."""
    for word in _WHOLE_WORD.finditer(text):
        if word.start() < end and word.end() > start:
            start, end = min(start, word.start()), max(end, word.end())
    return start, end


def _kinds(utterance: Utterance) -> list[str]:
    """The text of every token; pieces of one character are told apart by their number."""
    text, starts = unicodedata.normalize("NFC", utterance.reference), utterance.token_starts.tolist()
    kinds = []
    for index, start in enumerate(starts[:-1]):
        piece = text[start : starts[index + 1]]
        kinds.append(piece or f"{text[start : start + 1]}/{index - starts.index(start)}")
    return [*kinds, _END]


def _multiples(
    utterances: Sequence[Utterance], adapter: str, kinds: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.float64]]:
    """Losses of one adapter over the usual ones, by id, ``[N]`` each."""
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for utterance in utterances:
        for kind, loss in zip(kinds[utterance.id], utterance.token_losses[adapter].tolist(), strict=True):
            sums[kind] += loss
            counts[kind] += 1
    average = max(sum(sums.values()) / max(1, sum(counts.values())), 1e-6)
    found = {}
    for utterance in utterances:
        own = utterance.token_losses[adapter].astype(np.float64)
        others = np.array([(sums[kind], counts[kind]) for kind in kinds[utterance.id]])
        found[utterance.id] = own / ((others[:, 0] - own + _PRIOR * average) / (others[:, 1] - 1 + _PRIOR))
    return found


def _largest(utterance: Utterance, multiples: NDArray[np.float64]) -> Surprise:
    text, starts = unicodedata.normalize("NFC", utterance.reference), utterance.token_starts.tolist()
    top = int(multiples.argmax())
    times = float(multiples[top])
    value = times - math.log(len(multiples))
    if starts[top] >= len(text):
        return Surprise(times, value, len(text), len(text))
    first = last = top
    while first > 0 and multiples[first - 1] >= _NEIGHBOUR * times:
        first -= 1
    while last + 2 < len(starts) and multiples[last + 1] >= _NEIGHBOUR * times:
        last += 1
    start, end = _whole_words(text, starts[first], max(starts[last + 1], starts[first] + 1))
    return Surprise(times, value, start, end)
