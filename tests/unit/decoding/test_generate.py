"""Batched generation with a cache equals plain decoding of one row at a time without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.data.dataset import Sample, make_batch
from kimi_audio_ft.decoding.generate import generate_texts, utterance_seed
from kimi_audio_ft.decoding.sampling import penalize_repetition
from kimi_audio_ft.model import KimiAudioForCausalLM
from tests.sampling import choose

VOCABULARY, BLANK, PAD, NO_EOS = 60, 1, 0, -1
STEPS = 12
SEEDS = list(range(100, 106))


def generated(
    model: torch.nn.Module, samples: Sequence[Sample], eos: int, seeds: Sequence[int] | None = None, **settings: Any
) -> list[list[int]]:
    decoding = DecodingConfig(**{"text_temperature": 0.0, "max_new_tokens": STEPS} | settings)
    inputs = make_batch(samples, PAD, left=True)["inputs"]
    return generate_texts(model, inputs, [decoding], [seeds or SEEDS[: len(samples)]], eos, BLANK)[0]


@torch.no_grad()
def plain(model: KimiAudioForCausalLM, sample: Sample, eos: int, seed: int = 0, **settings: Any) -> list[int]:
    """One row without padding or cache: the whole sequence is computed anew for every token."""
    decoding = DecodingConfig(**{"text_temperature": 0.0, "max_new_tokens": STEPS} | settings)
    numbers = torch.rand(STEPS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    answer: list[int] = []
    for step in range(decoding.max_new_tokens):
        mask = torch.tensor([sample.layout.is_continuous_mask + [False] * step])
        audio_ids = torch.tensor([sample.layout.audio_ids + [BLANK] * step])
        text_ids = torch.tensor([sample.layout.text_ids + answer])
        out = model(audio_ids, text_ids, mask, sample.features, audio_branch=False)
        logits = penalize_repetition(
            out.text_logits[0, -1],
            torch.tensor(answer),
            decoding.text_repetition_penalty,
            decoding.text_repetition_window_size,
        )
        token = int(choose(logits[None], decoding.text_temperature, decoding.text_top_k, numbers[step : step + 1]))
        if token == eos:
            break
        answer.append(token)
    return answer


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy_penalty": {"text_repetition_penalty": 1.5, "text_repetition_window_size": 2},
    "sampled": {"text_temperature": 1.0, "text_top_k": 0},
    "sampled_top_k": {"text_temperature": 2.0, "text_top_k": 5},
    "sampled_penalty": {"text_temperature": 1.0, "text_repetition_penalty": 1.3, "text_repetition_window_size": 3},
}


@pytest.fixture
def eos(model: KimiAudioForCausalLM, samples: list[Sample], request: pytest.FixtureRequest) -> int:
    """A token that ends several answers, at different places, under the test's settings."""
    settings = SETTINGS[request.node.callspec.params["name"]]
    endless = [plain(model, sample, NO_EOS, seed, **settings) for sample, seed in zip(samples, SEEDS, strict=True)]

    def ends(token: int) -> set[int]:
        return {answer.index(token) for answer in endless if token in answer}

    best = max(range(VOCABULARY), key=lambda token: (len(ends(token)), token))
    assert len(ends(best)) >= 3, "the answers must end at different steps"
    return best


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_equals_its_rows_alone(model: KimiAudioForCausalLM, samples: list[Sample], eos: int, name: str) -> None:
    settings = SETTINGS[name]
    alone = [plain(model, sample, eos, seed, **settings) for sample, seed in zip(samples, SEEDS, strict=True)]
    assert generated(model, samples, eos, **settings) == alone
    for sample, seed, answer in zip(samples, SEEDS, alone, strict=True):
        assert generated(model, [sample], eos, [seed], **settings) == [answer]
    order = [3, 0, 5, 1, 4, 2]
    shuffled = generated(model, [samples[i] for i in order], eos, [SEEDS[i] for i in order], **settings)
    assert shuffled == [alone[i] for i in order]


def test_no_more_tokens_than_asked(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    calls: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    answers = generated(model, samples, NO_EOS, max_new_tokens=4)
    hook.remove()
    assert [len(answer) for answer in answers] == [4] * len(samples)
    assert len(calls) == 4, "the last token is not fed back"
    longer = generated(model, samples, NO_EOS, max_new_tokens=7)
    assert [answer[:4] for answer in longer] == answers


def test_empty_answers(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    first = [answer[0] for answer in generated(model, samples, NO_EOS, max_new_tokens=1)]
    assert generated(model, samples[:1], first[0]) == [[]]
    together = generated(model, samples, first[0])
    assert [answer == [] for answer in together] == [token == first[0] for token in first]


def test_temperature_zero_ignores_what_would_be_drawn(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    greedy = generated(model, samples, NO_EOS)
    assert generated(model, samples, NO_EOS, list(range(6)), text_top_k=7) == greedy
    assert generated(model, samples, NO_EOS, list(range(6)), text_top_k=1, text_temperature=1.7) == greedy
    assert generated(model, samples, NO_EOS, text_temperature=1e-7, text_top_k=0) == greedy


def test_samples_depend_on_the_seed(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    settings = SETTINGS["sampled"]
    first = generated(model, samples, NO_EOS, **settings)
    assert generated(model, samples, NO_EOS, **settings) == first
    other = generated(model, samples, NO_EOS, [seed + 1 for seed in SEEDS], **settings)
    assert all(one != two for one, two in zip(first, other, strict=True))
    one_changed = generated(model, samples, NO_EOS, [SEEDS[0], 7, *SEEDS[2:]], **settings)
    assert [a == b for a, b in zip(first, one_changed, strict=True)] == [True, False, True, True, True, True]


def test_sampling_leaves_the_global_generator_alone(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generated(model, samples[:2], NO_EOS, **SETTINGS["sampled"])
    assert torch.equal(torch.rand(3), expected)


def test_a_penalty_takes_loops_apart(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    def distinct(answers: list[list[int]]) -> int:
        return sum(len(set(answer)) for answer in answers)

    free = generated(model, samples, NO_EOS)
    penalized = generated(model, samples, NO_EOS, text_repetition_penalty=50.0, text_repetition_window_size=1)
    assert distinct(penalized) > distinct(free)
    # The window counts generated tokens only, and acts when more of them than its length are there.
    assert [answer[:2] for answer in penalized] == [answer[:2] for answer in free]


def test_utterance_seeds() -> None:
    seeds = [utterance_seed(*facts) for facts in ((1, 0, "a"), (2, 0, "a"), (1, 1, "a"), (1, 0, "b"), (1, 0, "a0"))]
    assert len(set(seeds)) == 5
    assert utterance_seed(1, 0, "a") == seeds[0]


class TestChoose:
    """One token from one distribution; the golden tests compare the distribution itself."""

    LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0]])

    def at(self, number: float, temperature: float = 1.0, top_k: int = 0) -> int:
        return int(choose(self.LOGITS, temperature, top_k, torch.tensor([number], dtype=torch.float64)))

    def test_the_number_runs_from_likely_to_unlikely(self) -> None:
        probabilities = self.LOGITS[0].softmax(-1)
        edges = probabilities[[1, 3, 2]].cumsum(0).tolist()
        assert [self.at(number) for number in (0.0, edges[0] - 1e-4, edges[0] + 1e-4)] == [1, 1, 3]
        assert [self.at(number) for number in (edges[1] + 1e-4, edges[2] + 1e-4, 1 - 1e-12)] == [2, 0, 0]

    def test_top_k(self) -> None:
        assert {self.at(number / 100, top_k=2) for number in range(100)} == {1, 3}
        assert {self.at(number / 100, top_k=99) for number in range(100)} == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["greedy", "sampled_penalty"])
@torch.no_grad()
def test_log_probabilities_are_those_of_the_whole_sequence(
    model: KimiAudioForCausalLM, samples: list[Sample], name: str
) -> None:
    """At temperature 1 and without penalty, of the end too where the answer has one; no answer changes by them."""
    decoding = DecodingConfig(**{"text_temperature": 0.0, "max_new_tokens": STEPS} | SETTINGS[name])
    inputs = make_batch(samples, PAD, left=True)["inputs"]
    eos = generated(model, samples, NO_EOS, **SETTINGS[name])[0][3]
    answers = generate_texts(model, inputs, [decoding], [SEEDS], eos, BLANK, True)[0]
    assert answers == generated(model, samples, eos, SEEDS, **SETTINGS[name])
    for sample, answer in zip(samples, answers, strict=True):
        ended = len(answer) < STEPS
        chosen = [*answer, eos] if ended else list(answer)
        audio_ids = torch.tensor([sample.layout.audio_ids + [BLANK] * len(answer)])
        text_ids = torch.tensor([sample.layout.text_ids + answer])
        mask = torch.tensor([sample.layout.is_continuous_mask + [False] * len(answer)])
        logits = model(audio_ids, text_ids, mask, sample.features, audio_branch=False).text_logits[0]
        first = len(sample.layout) - 1
        scores = logits[first : first + len(chosen)].log_softmax(-1)
        expected = scores.gather(-1, torch.tensor(chosen).unsqueeze(-1)).sum()
        assert answer.choices == len(chosen)
        assert answer.log_probability == pytest.approx(float(expected), rel=1e-4)
