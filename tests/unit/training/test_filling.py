"""Passes of a GPU: filled by its memory, with the same adapter at their end whatever they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.data.datamodule import Collate, passes_of
from kimi_audio_ft.data.dataset import Sample
from kimi_audio_ft.lora.adapter import ONE
from kimi_audio_ft.manifest.conversation import Layout
from kimi_audio_ft.training.adapters import AdapterSpec, AdapterState
from kimi_audio_ft.training.filling import Way, largest_step
from kimi_audio_ft.training.fit import on_one_base
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.training.passes import turns
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


def of_length(length: int, weight: float = 0.25) -> Sample:
    ids = list(range(length))
    return Sample(str(length), Layout(ids, ids, [False] * length, [False] * length, [True] * length), weight=weight)


def test_passes_hold_samples_of_similar_length_up_to_the_positions_that_are_allowed() -> None:
    samples = [of_length(length) for length in (9, 3, 4, 8, 3)]
    lengths = [[len(one.layout) for one in some] for some in passes_of(samples, most=16)]
    assert lengths == [[3, 3, 4], [8], [9]]
    assert len(passes_of(samples, most=45)) == 1 and len(passes_of(samples, most=1)) == 5
    weighed = passes_of(samples, 45, seconds=lambda positions: positions + 10.0)  # 12 + 18 and 20, not 45 and 10
    assert [[len(one.layout) for one in some] for some in weighed] == [[3, 3, 4], [8, 9]]


def test_samples_that_only_pad_a_rank_are_left_out_beside_others() -> None:
    assert len(passes_of([of_length(3), of_length(4, weight=0.0)], most=99)[0]) == 1
    assert len(passes_of([of_length(4, weight=0.0)], most=99)) == 1


def test_one_long_recording_among_short_ones_asks_for_no_recomputation() -> None:
    """Of the 7B in 4 bits on 24 GB; in one pass the step would have 4,120 positions, in the fastest it has 1,685."""
    steps = [np.array([150, 160, 165, 515, 168, 170, 175, 182]), np.full(8, 160)]
    kept = Way(2488, lambda positions: np.maximum(0.03, 3.8e-4 * positions))
    recomputed = Way(47_613, lambda positions: np.maximum(0.04, 5.6e-4 * positions))
    assert kept.time(steps) < recomputed.time(steps) == pytest.approx(1.5 * kept.time(steps), rel=0.05)
    assert recomputed.time(steps) < Way(600, lambda positions: 0.2 + 3.8e-4 * positions).time(steps)


def test_the_largest_step_is_looked_for_among_all(trial_config: Config) -> None:
    """Among more than the first steps: the longest conversation is put behind hundreds of others."""
    data = Trial(trial_config(data={"batch_size": 1})).data
    data.setup()
    lengths = np.full(600, 10)
    data.plan = replace(data.plan, lengths=lengths, supervised=lengths, bucket=False, step_batches=2)
    last = data.plan.epoch(0).step(299)[1].index
    lengths[last] = 50
    assert largest_step(data) == (100, 299)


def test_the_largest_validation_batch_is_not_the_last_one(trial_config: Config) -> None:
    """Nine conversations are one batch of eight and another of the longest alone."""
    data = Trial(trial_config()).data
    data.setup()
    sizes = [batch["inputs"]["input_ids"].numel() for [batch] in data.validation_batches()]
    [largest] = data.largest_validation_batch()
    assert largest["inputs"]["input_ids"].numel() == max(sizes) > sizes[-1]


@pytest.mark.parametrize("average", ["sample", "token"])
def test_loss_and_gradients_do_not_depend_on_the_passes_of_a_step(trial_config: Config, average: str) -> None:
    """With the masks of a GPU, by place; another sample's masks, or another seed's, are others.

    Passes that ranks take together may be any number: large ones are halved, and one without weight is repeated.
    """
    trial = Trial(trial_config(data={"batch_size": 3}, optim={"loss_average": average}))
    trial.data.setup()
    [[*samples]] = [[trial.data.train_set[draw] for draw in trial.data.plan.epoch(0).step(0)]]
    with on_one_base(trial.base, [spec_of(trial)], "slice") as (model, _):
        module = AdapterTraining(model, [AdapterState(trial.config.optim, 1)], 1)
        for name, parameter in module.named_parameters():  # an update that changes something
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))

        def result(most: int | None, seed: int = 1, passes: int | None = None, **weighed: Any) -> Tensor:
            """The loss and all gradients."""
            module.zero_grad()
            total = torch.zeros(())
            given = [replace(sample, passes=passes) for sample in samples]
            made = Collate(trial.base.tokenizer.pad_id, False, most, **weighed)(given)
            assert passes in (None, len(made))
            for batch in turns(made, module.states):
                target, length = batch["targets"][0], batch["micro_batches"][0][2]
                answers = (target.rows_N, target.columns_N)
                module.states[0].dropout.by_place(seed, 0, target.samples_R, length, answers, target.codes_N)
                loss = module(batch, average)[0] * batch["weights"][0]
                loss.backward()
                total += loss.detach()
            grads = [parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None]
            return torch.cat([total.view(1), *grads])

        whole = result(10_000)
        for most in (None, 1, 60):
            torch.testing.assert_close(result(most), whole, rtol=1e-3, atol=1e-6)
        weighed = result(10_000, seconds=lambda positions: positions + 1.0)
        torch.testing.assert_close(weighed, whole, rtol=1e-3, atol=1e-6)
        for passes in (1, len(samples), len(samples) + 2):
            torch.testing.assert_close(result(60, passes=passes), whole, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(result(10_000, seed=2), whole, rtol=1e-3, atol=1e-6)


def spec_of(trial: Trial) -> AdapterSpec:
    return AdapterSpec(ONE, trial.config.lora, trial.config.optim, 1, Path(), Path())
