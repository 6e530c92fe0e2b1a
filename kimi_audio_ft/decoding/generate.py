"""Batched generation of text answers (published decoding of output type "text"), under one or several settings.

A *path* is an unfinished or finished answer: one utterance under one setting. Shape suffixes: U utterances, P paths, A
unfinished paths, R rows of the model's batch, S prompt positions, T generated tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from kimi_audio_ft.config.canonical import is_greedy
from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.sampling import SamplingRule, choose_each
from kimi_audio_ft.lora.adapter import stable_seed

SETTINGS_AT_ONCE = 8
"""Settings that are decoded at once: at most so many rows of a batch per utterance."""
# Most text tokens of an answer to little audio; of more it is one per audio code (12.5 a second), which no one speaks.
_FEWEST_TOKENS = 256


class Tokens(list[int]):
    """Text tokens of an answer, without the end token.

    log_probability: of them and of the end, if it came: natural logarithm, summed, at temperature 1 whatever it was
    drawn at. choices: how many were made, that of the end too. Both are 0 unless asked for.
    """

    log_probability: float = 0.0
    choices: int = 0


def longest_answer(setting: DecodingConfig, codes: int, room: int) -> int:
    """Most text tokens of an answer to so many audio codes, behind which the model has room for so many positions."""
    return max(1, min(setting.max_new_tokens or max(_FEWEST_TOKENS, codes), room))


def answer_limits(model: torch.nn.Module, inputs: dict[str, Any], setting: DecodingConfig) -> list[int]:
    """Most text tokens of every utterance's answer: the setting's own number, or what its audio can hold.

    An answer that has as many is cut off. None goes beyond the model's positions.
    """
    config: Any = model.config
    room = (config.max_position_embeddings - inputs["attention_mask"].sum(-1)).tolist()
    codes = inputs["is_continuous_mask"].sum(-1).tolist()
    return [longest_answer(setting, *pair) for pair in zip(codes, room, strict=True)]


@torch.inference_mode()
def generate_texts(
    model: torch.nn.Module,
    inputs: dict[str, Any],
    settings: Sequence[DecodingConfig],
    seeds: Sequence[Sequence[int]],
    text_eos: int,
    blank: int,
    likelihoods: bool = False,
) -> list[list[Tokens]]:
    """Text tokens of every utterance's answer under every setting, ``[setting][utterance]``, without the end token.

    Args:
        inputs: arguments of ``forward`` for left-padded generation prompts (``data.dataset.make_batch``).
        seeds: of every utterance's random numbers under every setting, ``[setting][utterance]``.
        text_eos: the token that ends an answer; no other id ends one.
        blank: the audio stream's token at every decoded position.
        likelihoods: also add up the log probability of every answer, which changes none.

    The prompts are computed once; then ``SETTINGS_AT_ONCE`` settings at a time are decoded from a copy of their cache.
    An answer depends on its own setting and seed only.
    """
    mask_US = inputs["attention_mask"]
    padded = (mask_US == 0).any(-1).tolist()
    last = torch.zeros_like(mask_US, dtype=torch.bool)
    last[:, -1] = True
    out = model(**inputs, audio_branch=False, use_cache=True, text_positions=last)
    order = sorted(range(len(settings)), key=lambda index: SamplingRule.of(settings[index]))
    answers: list[list[Tokens]] = [[] for _ in settings]
    for start in range(0, len(order), SETTINGS_AT_ONCE):
        some = order[start : start + SETTINGS_AT_ONCE]
        more = start + SETTINGS_AT_ONCE < len(order)
        cache = copy.deepcopy(out.past_key_values) if more else out.past_key_values
        limits = [limit for index in some for limit in answer_limits(model, inputs, settings[index])]
        own = [settings[index] for index in some], [seeds[index] for index in some]
        paths = _Paths(*own, limits, mask_US.device, likelihoods)
        _complete(model, _Batch(out.text_logits, cache, mask_US, padded), paths, text_eos, blank)
        for number, index in enumerate(some):
            answers[index] = paths.answers[number * len(mask_US) : (number + 1) * len(mask_US)]
    return answers


@dataclass
class _Batch:
    """The model's last output and state: text logits ``[R, V]``, KV cache, the mask of its positions, padded rows."""

    logits_RV: Tensor
    cache: Cache
    mask_RS: Tensor
    padded: list[bool]


class _Paths:
    """Answers by setting and then by utterance; the settings come in the order of their rules."""

    def __init__(
        self,
        settings: Sequence[DecodingConfig],
        seeds: Sequence[Sequence[int]],
        limits: Sequence[int],
        device: torch.device,
        likelihoods: bool,
    ) -> None:
        own = [(setting, seed) for setting, of_setting in zip(settings, seeds, strict=True) for seed in of_setting]
        self.rules = [SamplingRule.of(setting) for setting, _ in own]
        self.limits, self._likelihoods = list(limits), likelihoods
        self.answers = [Tokens() for _ in own]
        drawn = [
            _uniforms(setting, seed, limit, max(limits)) for (setting, seed), limit in zip(own, limits, strict=True)
        ]
        self.uniforms_PT = torch.stack(drawn).to(device)
        self._greedy = all(rule.temperature == 0 for rule in self.rules)

    def choose(self, logits_AV: Tensor, active: Sequence[int]) -> list[int]:
        """Next tokens ``[A]`` of unfinished paths, which all have the same number of tokens."""
        step = len(self.answers[active[0]])
        rules = [(rule, len(list(same))) for rule, same in groupby(self.rules[path] for path in active)]
        answers = [self.answers[path] for path in active] if any(rule.penalty > 1 for rule, _ in rules) else []
        generated_AT = torch.tensor(answers, dtype=torch.long, device=logits_AV.device)
        uniform_A = self.uniforms_PT[: len(active), 0] if self._greedy else self.uniforms_PT[active, step]
        chosen_A = choose_each(logits_AV, generated_AT, rules, uniform_A)
        if not self._likelihoods:
            return chosen_A.tolist()
        found_A = logits_AV.float().gather(-1, chosen_A.unsqueeze(-1)).squeeze(-1) - logits_AV.float().logsumexp(-1)
        # Both at once: a GPU is waited for once a step.
        tokens, values = torch.stack([chosen_A.double(), found_A.double()]).tolist()
        for path, value in zip(active, values, strict=True):
            self.answers[path].log_probability += value
            self.answers[path].choices += 1
        return list(map(int, tokens))


def _complete(model: torch.nn.Module, batch: _Batch, paths: _Paths, text_eos: int, blank: int) -> None:
    """Decode every path to its end; consumes the cache.

    Paths of one utterance with equal tokens so far share a row of the batch, as most do at low temperatures. A row
    forks where its paths part, and is dropped when all of them are finished. Every step feeds (blank, last token) at
    the next position, without features.
    """
    active = list(range(len(paths.answers)))
    rows = [path % len(batch.logits_RV) for path in active]
    while active:
        everyone = rows == list(range(len(batch.logits_RV)))
        tokens = paths.choose(batch.logits_RV if everyone else batch.logits_RV[rows], active)
        forks: dict[tuple[int, int], int] = {}  # (row, token) of this step: row of the next
        unfinished, next_rows = [], []
        for path, row, token in zip(active, rows, tokens, strict=True):
            if token == text_eos:
                continue
            paths.answers[path].append(token)
            if len(paths.answers[path]) < paths.limits[path]:
                unfinished.append(path)
                next_rows.append(forks.setdefault((row, token), len(forks)))
        active, rows = unfinished, next_rows
        if active:
            batch = _step(model, batch, [row for row, _ in forks], [token for _, token in forks], blank)


def _step(model: torch.nn.Module, batch: _Batch, parents: list[int], tokens: list[int], blank: int) -> _Batch:
    """Extend the given rows of the last batch by one token each."""
    cache, mask_RS, padded = batch.cache, batch.mask_RS, [batch.padded[row] for row in parents]
    given_2R = torch.tensor([tokens, parents], device=mask_RS.device)
    text_ids_R1 = given_2R[0].unsqueeze(1)
    if parents != list(range(len(mask_RS))):
        cache.batch_select_indices(given_2R[1])
        mask_RS = mask_RS.index_select(0, given_2R[1])
    mask_RS = torch.nn.functional.pad(mask_RS, (0, 1), value=1)
    out = model(
        input_ids=torch.full_like(text_ids_R1, blank),
        text_input_ids=text_ids_R1,
        attention_mask=mask_RS if any(padded) else None,
        past_key_values=cache,
        audio_branch=False,
    )
    return _Batch(out.text_logits[:, 0], cache, mask_RS, padded)


def _uniforms(setting: DecodingConfig, seed: int, count: int, longest: int) -> Tensor:
    """``[longest]`` numbers in [0, 1) of one utterance; 0 beyond its own ``count``, and all 0 when greedy."""
    numbers = torch.zeros(longest, dtype=torch.float64)
    if not is_greedy(setting):
        generator = torch.Generator().manual_seed(seed)
        numbers[:count] = torch.rand(count, generator=generator, dtype=torch.float64)
    return numbers


def utterance_seed(seed: int, repeat: int, utterance: str) -> int:
    """Seed of one utterance's sampling; equal at every temperature, so that settings are compared pairwise."""
    return stable_seed("sampling", seed, repeat, utterance)
