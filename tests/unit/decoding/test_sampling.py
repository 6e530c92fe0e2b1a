"""Rows of several settings get the tokens that each setting's own rule gives, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.decoding.sampling import SamplingRule, choose_each, penalize_repetition
from tests.pretend_gpu import PretendedGPUs
from tests.sampling import choose

GENERATED = 6
rule_of = SamplingRule.of


def chosen_slowly(logits_V: Tensor, generated: Tensor, rule: SamplingRule, number: Tensor) -> int:
    """One row's token as the first version found it: a penalty token by token, and all of the vocabulary sorted."""
    if rule.penalty > 1 and len(generated) > rule.window:
        changed = logits_V.clone()
        for token in generated[-rule.window :].unique():
            value = logits_V[token]
            changed[token] = value * rule.penalty if value < 0 else value / rule.penalty
        logits_V = changed
    if rule.temperature <= 1e-6:
        return int(logits_V.argmax())
    scaled_V = logits_V.float() / rule.temperature
    if rule.top_k > 0:
        kept = scaled_V.topk(min(rule.top_k, len(scaled_V)))
        scaled_V = torch.full_like(scaled_V, -torch.inf).scatter(-1, kept.indices, kept.values)
    ordered, order = scaled_V.softmax(-1).sort(descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    place = number.to(cumulative) * cumulative[-1]
    return int(order[torch.searchsorted(cumulative, place, right=True).minimum((ordered > 0).sum() - 1)])


RULES = sorted(
    {
        rule_of(DecodingConfig(temperature, top_k, penalty, window))
        for temperature, top_k, (penalty, window) in product(
            (0.0, 0.01, 0.3, 1.0, 8.0), (0, 1, 5, 5000), ((1.0, 16), (1.2, 3), (1.2, GENERATED), (3.0, 3))
        )
    }
)


def rows_of(vocabulary: int, count: int, ties: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of both signs, generated tokens (some twice), numbers that reach both ends of [0, 1)."""
    generator = torch.Generator().manual_seed(vocabulary + ties)
    logits = 6 * torch.randn(count, vocabulary, generator=generator)
    if ties:
        logits = logits.round()
        logits[:, 1::7] = -torch.inf
    generated = torch.randint(0, min(vocabulary, 5), (count, GENERATED), generator=generator)
    numbers = torch.rand(count, generator=generator, dtype=torch.float64)
    numbers[::5], numbers[1::5] = 0.0, 1 - 2**-53
    return logits, generated, numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocabulary", "ties"), [(60, True), (1723, False), (1723, True)])
def test_every_row_is_chosen_by_its_own_rule(vocabulary: int, ties: bool, dtype: torch.dtype) -> None:
    counts = [1 + number % 4 for number in range(len(RULES))]
    counts[2] = counts[-1] = 0  # all rows of a rule may be finished
    logits, generated, numbers = rows_of(vocabulary, sum(counts), ties)
    logits = logits.to(dtype)
    together = choose_each(logits, generated, list(zip(RULES, counts, strict=True)), numbers).tolist()
    rules = [rule for rule, count in zip(RULES, counts, strict=True) for _ in range(count)]
    slowly = [chosen_slowly(*row) for row in zip(logits, generated, rules, numbers, strict=True)]
    assert together == slowly
    assert len(set(together)) > len(rules) / 10, "the rows do differ"
    mixed_up = choose_each(logits, generated, list(zip(RULES, counts[::-1], strict=True)), numbers)
    assert mixed_up.tolist() != slowly


def test_one_rule_is_choose() -> None:
    logits, generated, numbers = rows_of(1723, 40, ties=True)
    for rule in RULES:
        penalized = penalize_repetition(logits, generated, rule.penalty, rule.window)
        expected = choose(penalized, rule.temperature, rule.top_k, numbers)
        assert torch.equal(choose_each(logits, generated, [(rule, 40)], numbers), expected)


def test_a_penalty_counts_a_token_once() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    generated = torch.tensor([[2, 0, 0, 1], [0, 1, 2, 2]])
    penalized = penalize_repetition(logits, generated, 2.0, 3)
    assert penalized.tolist() == [[1.0, -4.0, 1.0], [2.0, -4.0, 0.5]]
    assert penalize_repetition(logits, generated[:, :3], 2.0, 3) is logits, "more than the window must be there"
    assert penalize_repetition(logits, generated, 1.0, 3) is logits


def test_settings_that_choose_the_same_have_one_rule() -> None:
    sampled = DecodingConfig(text_temperature=0.3, text_top_k=5)
    assert rule_of(sampled) == rule_of(replace(sampled, text_repetition_window_size=3, max_new_tokens=1, repeats=9))
    greedy = replace(sampled, text_temperature=0.0)
    assert rule_of(greedy) == rule_of(replace(greedy, text_temperature=1e-7, text_top_k=50))
    different = [sampled, greedy, replace(sampled, text_top_k=0), replace(greedy, text_repetition_penalty=1.2)]
    assert len({rule_of(setting) for setting in different}) == 4


def test_one_row_alone_is_drawn_on_a_gpu_as_on_a_cpu() -> None:
    """There its sums are those of a row among others, since CUDA adds up a single one in no fixed order."""
    generator, rule = torch.Generator().manual_seed(3), SamplingRule.of(DecodingConfig(text_temperature=0.7))
    none = torch.zeros(1, 0, dtype=torch.long)
    with PretendedGPUs():
        for uniform in torch.rand(20, 1, generator=generator, dtype=torch.float64):
            logits = torch.randn(1, 60, generator=generator)
            there = choose_each(logits.cuda(), none.cuda(), [(rule, 1)], uniform.cuda())
            assert there.cpu().equal(choose_each(logits, none, [(rule, 1)], uniform))
