"""Hypotheses of a whole evaluation set, on the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.train import DecodingConfig, TrainConfig
from kimi_audio_ft.decoding.generate import answer_limits, generate_texts
from kimi_audio_ft.decoding.request import Answer, DecodingRequest
from kimi_audio_ft.decoding.transcribe import transcribe
from kimi_audio_ft.manifest.conversation import BLANK, TEXT_EOS
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.trial import Trial

# So hot that any model draws differently every time, however well it is trained.
SAMPLED = DecodingConfig(text_temperature=8.0, text_top_k=0, max_new_tokens=6)


@pytest.fixture
def trial(trial_config: Callable[..., TrainConfig]) -> Trial:
    return Trial(trial_config())


Answers = Callable[..., dict[str, Answer]]


@pytest.fixture
def answers(trial: Trial) -> Answers:
    """Transcribes the nine conversations of the evaluation manifest, or some of them."""
    trial.data.setup()
    base = trial.base

    def run(decoding: DecodingConfig, seed: int = 1, repeat: int = 0, keep: slice = slice(None)) -> dict[str, Answer]:
        conversations = trial.data.eval_conversations[keep]
        prompts = trial.data.dataset(conversations, None, for_generation=True)
        request = DecodingRequest(decoding, seed, repeat)
        return transcribe(base.load(), prompts, base.tokenizer, [request], base.tokens.first)[0]

    return run


@contextmanager
def preferring(model: KimiAudioForCausalLM, token: int) -> Iterator[None]:
    """The same model with one token's logit far above all others."""
    bias = torch.zeros(model.lm_head.out_features)
    bias[token] = 1e4
    hook = model.lm_head.register_forward_hook(lambda _, args, out: out + bias)
    try:
        yield
    finally:
        hook.remove()


def test_every_conversation_in_the_manifests_order(answers: Answers) -> None:
    """Batches are made by length; the result is in the manifest's order all the same."""
    assert list(answers(replace(SAMPLED, batch_size=2))) == [f"eval{index}" for index in range(9)]


@pytest.mark.parametrize("decoding", [SAMPLED, replace(SAMPLED, text_temperature=0.0)])
def test_batches_and_company_change_nothing(answers: Answers, decoding: DecodingConfig) -> None:
    expected = answers(replace(decoding, batch_size=9))
    for size in (1, 2, 4):
        assert answers(replace(decoding, batch_size=size)) == expected
    some = answers(decoding, keep=slice(7, 2, -2))
    assert some == {key: expected[key] for key in ("eval7", "eval5", "eval3")}


def test_seed_and_repeat_draw_anew(answers: Answers) -> None:
    first, again = answers(SAMPLED), answers(SAMPLED)
    other_seed, other_repeat = answers(SAMPLED, seed=2), answers(SAMPLED, repeat=1)
    assert first == again
    for other in (other_seed, other_repeat):
        assert sum(first[key] != other[key] for key in first) > len(first) / 2
    assert other_seed != other_repeat


@pytest.mark.parametrize("unwritten", ["first code", "last code", BLANK])
def test_codes_and_special_tokens_never_reach_the_text(trial: Trial, answers: Answers, unwritten: str) -> None:
    base = trial.base
    ids = {"first code": base.tokens.first, "last code": base.tokens.end - 1, **base.tokenizer.special_tokens}
    with preferring(base.load(), ids[unwritten]):
        assert set(answers(SAMPLED).values()) == {""}


def test_answers_that_the_limit_cuts_are_told_apart(trial: Trial, answers: Answers) -> None:
    [*_, word] = trial.base.tokenizer.encode("会")
    greedy = DecodingConfig(max_new_tokens=3)
    with preferring(trial.base.load(), word):
        assert all(answer.is_cut for answer in answers(greedy).values())
    with preferring(trial.base.load(), trial.base.tokenizer.special_tokens[TEXT_EOS]):
        assert not any(answer.is_cut for answer in answers(greedy).values())


def test_the_limit_comes_from_the_audio_and_ends_with_the_models_positions(trial: Trial) -> None:
    model, codes, prompt = trial.base.load(), torch.tensor([40, 1000, 6000]), torch.tensor([60, 1020, 8000])
    rows = torch.arange(8192)
    inputs = {"is_continuous_mask": rows < codes[:, None], "attention_mask": (rows < prompt[:, None]).long()}
    assert answer_limits(model, inputs, DecodingConfig()) == [256, 1000, 192]
    assert answer_limits(model, inputs, DecodingConfig(max_new_tokens=300)) == [300, 300, 192]


def test_words_around_a_code_are_kept(trial: Trial, answers: Answers) -> None:
    [*_, word] = trial.base.tokenizer.encode("会")
    with preferring(trial.base.load(), word):
        text = set(answers(replace(SAMPLED, max_new_tokens=3)).values())
    assert text == {trial.base.tokenizer.decode([word] * 3)}


def test_empty_answers(trial: Trial, answers: Answers) -> None:
    with preferring(trial.base.load(), trial.base.tokenizer.special_tokens[TEXT_EOS]):
        result: dict[str, Any] = answers(SAMPLED)
    assert result == {f"eval{index}": "" for index in range(9)}


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_decoded_in_halves(
    trial: Trial, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First of its conversations, then of its requests; the hypotheses stay the same."""
    expected = [answers(SAMPLED, repeat=repeat, keep=slice(3)) for repeat in (0, 1)]
    rows: list[int] = []

    def tight(model: Any, inputs: Any, settings: Any, seeds: list[list[int]], *rest: Any) -> Any:
        rows.append(len(seeds) * len(seeds[0]))
        if rows[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate_texts(model, inputs, settings, seeds, *rest)

    monkeypatch.setattr("kimi_audio_ft.decoding.transcribe.generate_texts", tight)
    prompts = trial.data.dataset(trial.data.eval_conversations[:3], None, for_generation=True)
    requests = [DecodingRequest(SAMPLED, 1, repeat) for repeat in (0, 1)]
    base = trial.base
    assert transcribe(base.load(), prompts, base.tokenizer, requests, base.tokens.first) == expected
    assert max(rows) == 6 and rows.count(1) == 6

    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("kimi_audio_ft.decoding.transcribe.generate_texts", full)
    with pytest.raises(torch.OutOfMemoryError):
        transcribe(base.load(), prompts, base.tokenizer, requests, base.tokens.first)
