"""The product's Lightning module on the GPU trains what it trains on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.bench_gpu.inputs import Clip, batch_of, random_samples
from experiments.bench_gpu.step import adapter_on
from kimi_audio_ft.config.train import LoraConfig, OptimConfig
from kimi_audio_ft.lora.adapter import adapter_state
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.training.adapters import Learner
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.training.strategies import OneDevice

Distance = Callable[[Tensor, Tensor], float]

CPU = torch.device("cpu")
STEPS = 6


class Losses(pl.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, AdapterTraining)
        self.values.append(pl_module.learners[0].step_loss)


def train(dtype: torch.dtype, device: torch.device, tmp_path: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and adapter of a short training of the embedded model without dropout."""
    model = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, dtype, audio_branch=False)
    config = model.model.config
    steps = [
        [
            batch_of(config, random_samples(config, [Clip(3, 20, 6), Clip(5, 11, 9)], seed=seed), CPU, dtype)
            | {"weight": 0.5, "number": seed}
        ]
        for seed in range(STEPS)
    ]
    losses = Losses()
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        strategy=OneDevice(device=device),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses],
        default_root_dir=tmp_path,
    )
    with adapter_on(model, LoraConfig(r=4, lora_dropout=0.0)) as adapted:
        module = AdapterTraining(adapted, [Learner(OptimConfig(lr=1e-3), seed=1)], STEPS)
        trainer.fit(module, DataLoader(steps, batch_size=None))
        state = {key: value.detach().cpu().clone() for key, value in adapter_state(adapted).items()}
    return losses.values, state


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "adapter_tolerance"),
    # AdamW divides by the gradient's own size, so that rounding in a gradient near 0 becomes a step of full length.
    [(torch.float32, 1e-3, 0.02), (torch.bfloat16, 0.05, 0.5)],
    ids=["float32", "bfloat16"],
)
def test_a_training_on_the_gpu_is_the_cpus(
    device: torch.device,
    distance: Distance,
    tmp_path: Any,
    dtype: torch.dtype,
    loss_tolerance: float,
    adapter_tolerance: float,
) -> None:
    losses, adapter = train(dtype, device, tmp_path)
    expected_losses, expected = train(dtype, CPU, tmp_path)
    assert len(losses) == STEPS
    assert losses == pytest.approx(expected_losses, rel=loss_tolerance)
    assert adapter.keys() == expected.keys()
    moved = [key for key in adapter if "lora_B" in key]
    ours, theirs = (torch.cat([state[key].flatten() for key in moved]) for state in (adapter, expected))
    assert theirs.abs().max() > 1e-3, "it learned"
    assert distance(ours, theirs) < adapter_tolerance


def test_an_adapter_starts_the_same_on_both_devices(device: torch.device) -> None:
    model = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, torch.bfloat16, audio_branch=False)
    starts = []
    for base in (model, copy.deepcopy(model).to(device)):
        with adapter_on(base, LoraConfig(r=4), seed=3) as adapted:
            starts.append({key: value.detach().cpu().clone() for key, value in adapter_state(adapted).items()})
    assert starts[0].keys() == starts[1].keys()
    assert [key for key, value in starts[0].items() if not torch.equal(value, starts[1][key])] == []
