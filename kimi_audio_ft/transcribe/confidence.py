"""The text of a piece, out of one answer or several samples, and how sure it is."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.decoding.request import Answer
from kimi_audio_ft.scoring.consensus import index_of_consensus
from kimi_audio_ft.scoring.normalise import normalise


@dataclass(frozen=True)
class Text:
    """A text and how sure it is.

    log_probability, choices: of its tokens and ends, summed, and how many these are. agreement: of the samples with the
    text, from 0 to 1, on average; None for a single answer. truncated: the limit of tokens has cut it.
    """

    text: str
    log_probability: float
    choices: int
    agreement: float | None = None
    truncated: bool = False

    @cached_property
    def avg_logprob(self) -> float | None:
        """Mean log probability of a token (natural, at most 0); None without any."""
        return self.log_probability / self.choices if self.choices else None


def text_of(answers: Sequence[Answer]) -> Text:
    """The answer that differs least from the others (``index_of_consensus``), of equally near ones the likeliest.

    Its agreement is the mean similarity of the others to it, by edits of the strictly normalised texts: 1 for the same
    text, 0 for one without a common character.
    """
    ordered = sorted(answers, key=_mean, reverse=True)
    texts = list(map(str, ordered))
    best = index_of_consensus(texts)
    answer, normalised = ordered[best], list(map(normalise, texts))
    others = normalised[:best] + normalised[best + 1 :]
    alike = [Levenshtein.normalized_similarity(normalised[best], other) for other in others]
    agreement = sum(alike) / len(alike) if alike else None
    return Text(texts[best], answer.log_probability, answer.choices, agreement, answer.is_cut)


def _mean(answer: Answer) -> float:
    return answer.log_probability / answer.choices if answer.choices else -math.inf


def joined(texts: Sequence[Text]) -> Text:
    """The text of a recording, out of its pieces'; a piece counts for its agreement by its number of tokens."""
    agreements = [(text.agreement, text.choices) for text in texts if text.agreement is not None]
    weight = sum(choices for _, choices in agreements)
    return Text(
        _joined([text.text for text in texts]),
        sum(text.log_probability for text in texts),
        sum(text.choices for text in texts),
        sum(agreement * choices for agreement, choices in agreements) / weight if weight else None,
        any(text.truncated for text in texts),
    )


def _joined(texts: Sequence[str]) -> str:
    """Texts one after the other, with a space where neither side is a Han or other wide character."""
    whole = ""
    for text in filter(None, texts):
        apart = whole and not (_is_wide(whole[-1]) or _is_wide(text[0]))
        whole += f" {text}" if apart else text
    return whole


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
