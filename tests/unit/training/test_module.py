"""The loss of supervised positions under both averages."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kimi_audio_ft.training.ending import TrainingFailed, require_finite
from kimi_audio_ft.training.module import answer_loss, row_means, token_losses


def test_averages_over_samples_and_over_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(6, 9, generator=generator), torch.randint(0, 9, (6,), generator=generator)
    rows = torch.tensor([0, 0, 0, 0, 2, 2])  # of three samples, the second has no supervised position
    losses = functional.cross_entropy(logits, labels, reduction="none")
    means = [losses[:4].sum() / 4.0001, torch.tensor(0.0), losses[4:].sum() / 2.0001]
    torch.testing.assert_close(row_means(token_losses(logits, labels), rows, 3), torch.stack(means))
    assert answer_loss(logits, labels, rows, 3, "sample").item() == pytest.approx(sum(means).item(), rel=1e-6)
    assert answer_loss(logits, labels, rows, 3, "token").item() == pytest.approx(losses.sum().item(), rel=1e-6)


def test_a_micro_batch_may_be_cut_anywhere() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(5, 9, generator=generator), torch.randint(0, 9, (5,), generator=generator)
    rows = torch.tensor([0, 0, 1, 1, 1])
    for average in ("sample", "token"):
        whole = answer_loss(logits, labels, rows, 2, average)
        parts = answer_loss(logits[:2], labels[:2], rows[:2], 1, average)
        parts = parts + answer_loss(logits[2:], labels[2:], rows[2:] - 1, 1, average)
        torch.testing.assert_close(parts, whole)


def test_a_loss_that_is_not_finite_names_what_else_it_can_be_on_a_gpu() -> None:
    for on_gpu in (False, True):
        with pytest.raises(TrainingFailed, match=r"optim\.lr=0\.1: the training loss is nan at step 3") as failed:
            require_finite("training", float("nan"), 0.1, 3, on_gpu)
        assert ("model.attention=eager: cuDNN" in str(failed.value)) == on_gpu
