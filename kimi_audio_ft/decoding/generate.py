"""Batched generation of text answers (published decoding of output type "text"), under one or several settings.

A *path* is one answer in the making: an utterance under one sampling. Shape suffixes: U utterances, P paths, A paths
that are not finished, R rows of the model's batch, S prompt positions, T generated tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from kimi_audio_ft.decoding.sampling import GREEDY_BELOW, Rule, choose_each
from kimi_audio_ft.lora.adapter import stable_seed
from kimi_audio_ft.schema import DecodingConfig

SAMPLINGS_AT_ONCE = 8
"""Samplings that go on together from one prefill: the batch has at most so many rows for every utterance in it."""


@dataclass(frozen=True)
class Sampling:
    """One way of drawing answers: a setting, and the seed of every utterance's own random numbers."""

    decoding: DecodingConfig
    seeds: Sequence[int]


def generate_text(
    model: torch.nn.Module,
    inputs: dict[str, Any],
    decoding: DecodingConfig,
    text_eos: int,
    blank: int,
    seeds: Sequence[int],
) -> list[list[int]]:
    """Text tokens of each row's answer under one setting; see ``generate_texts``."""
    return generate_texts(model, inputs, [Sampling(decoding, seeds)], text_eos, blank)[0]


@torch.inference_mode()
def generate_texts(
    model: torch.nn.Module,
    inputs: dict[str, Any],
    samplings: Sequence[Sampling],
    text_eos: int,
    blank: int,
) -> list[list[list[int]]]:
    """Text tokens of every utterance's answer under every sampling, ``[sampling][utterance]``, without the end token.

    Args:
        inputs: arguments of ``forward`` for left-padded generation prompts (``data.batch.make_batch``).
        text_eos: the token that ends an answer; no other id ends one.
        blank: the audio stream's token at every decoded position.

    The prompts are computed once. Then ``SAMPLINGS_AT_ONCE`` samplings go on together, and after them the next, from a
    copy of the same cache. A sampling's answers depend on its own setting and seeds only.
    """
    mask_US = inputs["attention_mask"]
    last = torch.zeros_like(mask_US, dtype=torch.bool)
    last[:, -1] = True
    out = model(**inputs, audio_branch=False, use_cache=True, text_positions=last)
    order = sorted(range(len(samplings)), key=lambda index: Rule.of(samplings[index].decoding))
    answers: list[list[list[int]]] = [[] for _ in samplings]
    for start in range(0, len(order), SAMPLINGS_AT_ONCE):
        some = order[start : start + SAMPLINGS_AT_ONCE]
        more = start + SAMPLINGS_AT_ONCE < len(order)
        cache = copy.deepcopy(out.past_key_values) if more else out.past_key_values
        paths = _Paths.of([samplings[index] for index in some], mask_US.device)
        _go_on(model, _Batch(out.text_logits, cache, mask_US), paths, text_eos, blank)
        for index, texts in zip(some, paths.answers(len(mask_US)), strict=True):
            answers[index] = texts
    return answers


@dataclass
class _Batch:
    """What the model was last asked: text logits ``[R, V]``, the cache behind them, the mask of its positions."""

    logits_RV: Tensor
    cache: Cache
    mask_RS: Tensor


@dataclass
class _Paths:
    """Answers in the making, by sampling and then by utterance. Samplings are in the order of their rules."""

    rules: list[Rule]
    rule_P: list[int]
    uniforms_PT: Tensor
    limits_P: Tensor
    tokens_PT: Tensor
    lengths_P: Tensor

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> _Paths:
        rules = sorted({Rule.of(sampling.decoding) for sampling in samplings})
        settings_P = [sampling.decoding for sampling in samplings for _ in sampling.seeds]
        limits = [decoding.max_new_tokens for decoding in settings_P]
        longest = max(limits)
        return cls(
            rules=rules,
            rule_P=[rules.index(Rule.of(decoding)) for decoding in settings_P],
            uniforms_PT=torch.cat([_uniforms(sampling, longest) for sampling in samplings]).to(device),
            limits_P=torch.tensor(limits, device=device),
            tokens_PT=torch.zeros(len(limits), longest, dtype=torch.long, device=device),
            lengths_P=torch.zeros(len(limits), dtype=torch.long, device=device),
        )

    def take(self, logits_AV: Tensor, path_A: Tensor, step: int, text_eos: int) -> tuple[Tensor, Tensor]:
        """Choose and keep the next token of some paths: the tokens ``[A]``, and which of these paths go on ``[A]``."""
        counts = Counter(self.rule_P[path] for path in path_A.tolist())
        rules = [(rule, counts[number]) for number, rule in enumerate(self.rules)]
        tokens_A = choose_each(logits_AV, self.tokens_PT[path_A, :step], rules, self.uniforms_PT[path_A, step])
        spoken_A = tokens_A != text_eos
        self.tokens_PT[path_A, step] = tokens_A
        self.lengths_P[path_A] += spoken_A
        return tokens_A, spoken_A & (self.limits_P[path_A] > step + 1)

    def answers(self, num_utterances: int) -> list[list[list[int]]]:
        """``[sampling][utterance]`` tokens."""
        lengths = self.lengths_P.tolist()
        texts = [tokens[:length] for tokens, length in zip(self.tokens_PT.tolist(), lengths, strict=True)]
        return [texts[start : start + num_utterances] for start in range(0, len(texts), num_utterances)]


def _go_on(model: torch.nn.Module, batch: _Batch, paths: _Paths, text_eos: int, blank: int) -> None:
    """Take every path to its end. The cache is used up.

    Paths of one utterance that have said the same so far share a row of the batch: at low temperatures most do, for
    most of the way. Rows fork where their paths part, and leave the batch when all their paths are finished. Every step
    feeds (blank, last token) at the next position, without features.
    """
    num_utterances, vocabulary = batch.logits_RV.shape
    path_A = torch.arange(len(paths.limits_P), device=batch.logits_RV.device)
    row_A = path_A % num_utterances
    for step in range(paths.tokens_PT.shape[1]):
        tokens_A, going_A = paths.take(batch.logits_RV[row_A], path_A, step, text_eos)
        path_A, row_A, tokens_A = path_A[going_A], row_A[going_A], tokens_A[going_A]
        if not len(path_A):
            break
        # Rows of the next step are the distinct (row, token) of this one, in that order.
        fork_R, row_A = (row_A * vocabulary + tokens_A).unique(return_inverse=True)
        batch = _step(model, batch, fork_R // vocabulary, fork_R % vocabulary, blank)


def _step(model: torch.nn.Module, batch: _Batch, parent_R: Tensor, tokens_R: Tensor, blank: int) -> _Batch:
    """Rows that continue their parents' rows by one token."""
    cache, mask_RS = batch.cache, batch.mask_RS
    if parent_R.tolist() != list(range(len(mask_RS))):
        cache.batch_select_indices(parent_R)
        mask_RS = mask_RS[parent_R]
    mask_RS = torch.nn.functional.pad(mask_RS, (0, 1), value=1)
    text_ids_R1 = tokens_R.unsqueeze(1)
    out = model(
        input_ids=torch.full_like(text_ids_R1, blank),
        text_input_ids=text_ids_R1,
        attention_mask=mask_RS,
        past_key_values=cache,
        audio_branch=False,
        text_positions=torch.ones_like(text_ids_R1, dtype=torch.bool),
    )
    return _Batch(out.text_logits, cache, mask_RS)


def _uniforms(sampling: Sampling, longest: int) -> Tensor:
    """``[U, longest]`` numbers in [0, 1), each row from its own generator; 0 beyond the setting's own length."""
    decoding, seeds = sampling.decoding, sampling.seeds
    numbers = torch.zeros(len(seeds), longest, dtype=torch.float64)
    if decoding.text_temperature > GREEDY_BELOW:
        for row, seed in zip(numbers, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            row[: decoding.max_new_tokens] = torch.rand(
                decoding.max_new_tokens, generator=generator, dtype=torch.float64
            )
    return numbers


def utterance_seed(seed: int, repeat: int, utterance: str) -> int:
    """Seed of one utterance's sampling; the same at every temperature, so that settings are compared pairwise."""
    return stable_seed("sampling", seed, repeat, utterance)
