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


def alone(trial: Trial, index: int) -> tuple[float, int]:
    """Summed negative log-likelihood of one answer, from the logits of all positions; and its number of tokens."""
    batch = make_batch([trial.data.eval_set[index]], trial.base.tokenizer.pad_id)
    with torch.no_grad():
        logits = trial.base.load()(**batch["inputs"], audio_branch=False).text_logits[0]
    likely = logits.double().log_softmax(-1)
    answer = batch["text_loss_mask"][0].nonzero()[:, 0].tolist()
    return -sum(float(likely[place, batch["text_labels"][0, place]]) for place in answer), len(answer)


@pytest.mark.parametrize("max_tokens", [1, 40, 8192])
def test_each_loss_is_the_mean_over_its_own_answer(trial: Trial, max_tokens: int) -> None:
    losses = utterance_losses(trial.base.load(), trial.data.eval_set, trial.base.tokenizer.pad_id, max_tokens)
    assert list(losses) == [f"eval{index}" for index in range(9)]
    for index, loss in enumerate(losses.values()):
        summed, tokens = alone(trial, index)
        assert loss == pytest.approx(summed / tokens, rel=1e-3)  # the published mean adds 1e-4 to the tokens


def test_together_they_are_the_validation_loss(trial: Trial) -> None:
    losses = evaluation_losses(trial.evaluation, None)
    tokens = [alone(trial, index)[1] for index in range(9)]
    total = sum(loss * (count + 1e-4) for loss, count in zip(losses.values(), tokens, strict=True))
    expected = sum(alone(trial, index)[0] for index in range(9))
    assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_an_adapter_has_losses_of_its_own(trial: Trial) -> None:
    base = evaluation_losses(trial.evaluation, None)
    adapter = trial.adapter()
    adapted = evaluation_losses(trial.evaluation, (adapter.signature, adapter.folder))
    assert adapted.keys() == base.keys() and all(math.isfinite(loss) for loss in adapted.values())
    assert all(adapted[name] != base[name] for name in base)
    # What training saw as its last validation loss is a mean over tokens of these very figures.
    tokens = [alone(trial, index)[1] for index in range(9)]
    total = sum(loss * count for loss, count in zip(adapted.values(), tokens, strict=True)) / sum(tokens)
    assert total == pytest.approx(adapter.facts["final_val_loss"], rel=1e-3)
