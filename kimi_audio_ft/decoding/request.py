"""Requests to decode an evaluation set under a setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kimi_audio_ft.config.canonical import decoding_form, is_greedy
from kimi_audio_ft.config.train import NATIVE, DecodingConfig


class Answer(str):
    """A hypothesis.

    is_cut: it was ended by the limit of its tokens, so that its end is missing. log_probability: of its tokens and its
    end, natural logarithm, summed; choices: how many these are. Both are 0 where nobody asked for them.
    """

    is_cut: bool
    log_probability: float
    choices: int

    def __new__(cls, text: str, is_cut: bool = False, log_probability: float = 0.0, choices: int = 0) -> Answer:
        answer = super().__new__(cls, text)
        answer.is_cut, answer.log_probability, answer.choices = is_cut, log_probability, choices
        return answer


Answers = list[dict[str, Answer]]
"""Hypotheses by id, one dict per request."""


@dataclass(frozen=True)
class DecodingRequest:
    """Decoding of an evaluation set under a setting; ``repeat`` counts the samplings with one seed, from 0."""

    setting: DecodingConfig
    seed: int
    repeat: int = 0

    @classmethod
    def greedy(cls, setting: DecodingConfig) -> DecodingRequest:
        """The setting without chance, by which rungs of a training are compared: natively, as the base is there."""
        return cls(replace(setting, text_temperature=0.0, engine=NATIVE), 0)

    @classmethod
    def first_pass(cls, setting: DecodingConfig) -> DecodingRequest:
        """That of the texts that choose hot words: greedy, and the same for all settings that one engine decodes."""
        return cls(DecodingConfig(batch_size=setting.batch_size, engine=setting.engine, vllm=setting.vllm), 0)

    def repeats(self, vocabulary: float = math.inf) -> list[DecodingRequest]:
        """A request for each of the setting's repeats, in its canonical form; a single one, of seed 0, when greedy."""
        setting = decoding_form(self.setting, vocabulary)
        if is_greedy(setting):
            return [DecodingRequest(setting, 0)]
        return [replace(self, setting=setting, repeat=repeat) for repeat in range(setting.repeats)]


def batch_size_of(requests: Sequence[DecodingRequest]) -> int | str:
    """Utterances that requests decode together: the fewest that one asks for; auto where all leave it open."""
    given = [one.setting.batch_size for one in requests if one.setting.batch_size != "auto"]
    return min(given, default="auto")
