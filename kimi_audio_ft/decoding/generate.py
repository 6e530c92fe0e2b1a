"""Batched generation of text answers (published decoding of output type "text"), under one or several settings.

A *path* is one answer in the making: an utterance under one sampling. Shape suffixes: U utterances, P paths, A paths
that are not finished, R rows of the model's batch, S prompt positions, T generated tokens, V vocabulary.
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

from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.sampling import GREEDY_BELOW, Rule, choose_each
from kimi_audio_ft.lora.adapter import stable_seed

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
        paths = _Paths([samplings[index] for index in some], mask_US.device)
        _go_on(model, _Batch(out.text_logits, cache, mask_US), paths, text_eos, blank)
        for number, index in enumerate(some):
            answers[index] = paths.answers[number * len(mask_US) : (number + 1) * len(mask_US)]
    return answers


@dataclass
class _Batch:
    """What the model was last asked: text logits ``[R, V]``, the cache behind them, the mask of its positions."""

    logits_RV: Tensor
    cache: Cache
    mask_RS: Tensor


class _Paths:
    """Answers in the making, by sampling and then by utterance. Samplings come in the order of their rules."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        settings = [sampling.decoding for sampling in samplings for _ in sampling.seeds]
        self.rules = [Rule.of(decoding) for decoding in settings]
        self.limits = [decoding.max_new_tokens for decoding in settings]
        self.answers: list[list[int]] = [[] for _ in settings]
        self.uniforms_PT = torch.cat([_uniforms(sampling, max(self.limits)) for sampling in samplings]).to(device)

    def choose(self, logits_AV: Tensor, active: Sequence[int]) -> list[int]:
        """The next token of some paths, which all have as many already."""
        step = len(self.answers[active[0]])
        rules = [(rule, len(list(same))) for rule, same in groupby(self.rules[path] for path in active)]
        said = [self.answers[path] for path in active] if any(rule.penalty > 1 for rule, _ in rules) else []
        generated_AT = torch.tensor(said, dtype=torch.long, device=logits_AV.device)
        return choose_each(logits_AV, generated_AT, rules, self.uniforms_PT[active, step]).tolist()


def _go_on(model: torch.nn.Module, batch: _Batch, paths: _Paths, text_eos: int, blank: int) -> None:
    """Take every path to its end. The cache is used up.

    Paths of one utterance that have said the same so far share a row of the batch: at low temperatures most do, for
    most of the way. Rows fork where their paths part, and leave the batch when all their paths are finished. Every step
    feeds (blank, last token) at the next position, without features.
    """
    active = list(range(len(paths.answers)))
    rows = [path % len(batch.logits_RV) for path in active]
    while active:
        tokens = paths.choose(batch.logits_RV[rows], active)
        forks: dict[tuple[int, int], int] = {}  # (row, token) of this step: row of the next
        going, next_rows = [], []
        for path, row, token in zip(active, rows, tokens, strict=True):
            if token == text_eos:
                continue
            paths.answers[path].append(token)
            if len(paths.answers[path]) < paths.limits[path]:
                going.append(path)
                next_rows.append(forks.setdefault((row, token), len(forks)))
        active, rows = going, next_rows
        if active:
            batch = _step(model, batch, [row for row, _ in forks], [token for _, token in forks], blank)


def _step(model: torch.nn.Module, batch: _Batch, parents: list[int], tokens: list[int], blank: int) -> _Batch:
    """Rows that continue their parents' rows by one token each."""
    cache, mask_RS = batch.cache, batch.mask_RS
    if parents != list(range(len(mask_RS))):
        cache.batch_select_indices(torch.tensor(parents, device=mask_RS.device))
        mask_RS = mask_RS[parents]
    mask_RS = torch.nn.functional.pad(mask_RS, (0, 1), value=1)
    text_ids_R1 = torch.tensor(tokens, device=mask_RS.device).unsqueeze(1)
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
