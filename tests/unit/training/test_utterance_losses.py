"""Losses of single conversations: against a plain computation, and against the validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.data.dataset import make_batch
from kimi_audio_ft.training.utterance_losses import evaluation_losses, utterance_losses
from kimi_audio_ft.trial import Trial


@pytest.fixture
def trial(trial_config: Callable[..., TrainConfig]) -> Trial:
    trial = Trial(trial_config())
    trial.data.setup()
    return trial


def alone(trial: Trial, index: int) -> list[float]:
    """Negative log-likelihoods of one answer's tokens, from the logits of all positions."""
    batch = make_batch([trial.data.eval_set[index]], trial.base.tokenizer.pad_id)
    with torch.no_grad():
        logits = trial.base.load()(**batch["inputs"], audio_branch=False).text_logits[0]
    likely = logits.double().log_softmax(-1)
    answer = batch["text_loss_mask"][0].nonzero()[:, 0].tolist()
    return [-float(likely[place, batch["text_labels"][0, place]]) for place in answer]


@pytest.mark.parametrize("max_tokens", [1, 40, 8192])
def test_each_loss_is_the_mean_over_its_own_answer(trial: Trial, max_tokens: int) -> None:
    losses = utterance_losses(trial.base.load(), trial.data.eval_set, trial.base.tokenizer, max_tokens)
    assert list(losses) == [f"eval{index}" for index in range(9)]
    for index, loss in enumerate(losses.values()):
        expected = alone(trial, index)
        # The published mean adds 1e-4 to the tokens.
        assert loss.mean == pytest.approx(sum(expected) / len(expected), rel=1e-3)
        assert [found for _, found in loss.tokens] == pytest.approx(expected, abs=1e-3)
        text = trial.evaluation.references[f"eval{index}"]
        starts = [start for start, _ in loss.tokens]
        assert starts[0] == 0 and starts[-1] == len(text) and starts == sorted(starts)


def test_tokens_begin_in_characters_of_the_composed_text(trial: Trial) -> None:
    tokenizer, text = trial.base.tokenizer, "我cafe\u0301，𠮷吃"
    ids = tokenizer.encode(text)
    composed = tokenizer.decode(ids)
    starts = tokenizer.starts(ids)
    assert composed == "我café，𠮷吃" and len(ids) > len(set(starts)), "𠮷 is several tokens"
    for start, end in zip(starts, [*starts[1:], len(composed)], strict=True):
        assert start <= end and composed[start : start + 1]
    assert starts[0] == 0 and composed.index("，") in starts


def test_together_they_are_the_validation_loss(trial: Trial) -> None:
    losses = evaluation_losses(trial.evaluation, None)
    each = [alone(trial, index) for index in range(9)]
    total = sum(loss.mean * (len(tokens) + 1e-4) for loss, tokens in zip(losses.values(), each, strict=True))
    expected = sum(map(sum, each))
    assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_an_adapter_has_losses_of_its_own(trial: Trial) -> None:
    base = evaluation_losses(trial.evaluation, None)
    adapter = trial.adapter()
    adapted = evaluation_losses(trial.evaluation, (adapter.signature, adapter.folder))
    assert adapted.keys() == base.keys() and all(math.isfinite(loss.mean) for loss in adapted.values())
    assert all(adapted[name].mean != base[name].mean for name in base)
    # What training saw as its last validation loss is a mean over tokens of these very figures.
    tokens = [len(loss.tokens) for loss in adapted.values()]
    total = sum(loss.mean * count for loss, count in zip(adapted.values(), tokens, strict=True)) / sum(tokens)
    assert total == pytest.approx(adapter.facts["final_val_loss"], rel=1e-3)
