"""Which strategy a setting names, and what strategies do without several processes.

That all of them train the same is in tests/numerics/test_strategies.py.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.accelerators import CPUAccelerator
from torch import nn

from kimi_audio_ft.config.train import TrainerConfig
from kimi_audio_ft.training.strategies import AdapterStrategy, Copies, KeepPrecision, OneDevice, Shards, make_strategy


def made(name: str, ranks: int) -> AdapterStrategy:
    return make_strategy(TrainerConfig(strategy=name), ranks, torch.device("cpu"), 1.0, unused=False)


@pytest.mark.parametrize(
    ("name", "ranks", "kind"),
    [("single", 1, OneDevice), ("ddp", 1, OneDevice), ("ddp", 2, Copies), ("fsdp", 2, Shards), ("fsdp", 1, Shards)],
)
def test_a_setting_names_its_strategy(name: str, ranks: int, kind: type[AdapterStrategy]) -> None:
    strategy = made(name, ranks)
    assert type(strategy) is kind
    assert strategy.restore_checkpoint_after_setup and strategy.lightning_restore_optimizer


class Unmovable(pl.LightningModule):
    """Notes that it was to be moved to the CPU's memory."""

    moved = 0

    def cpu(self) -> Unmovable:
        self.moved += 1
        return self


@pytest.mark.parametrize(("name", "ranks"), [("single", 1), ("ddp", 2), ("fsdp", 2)])
def test_the_end_of_a_training_moves_no_base_to_the_cpu(name: str, ranks: int) -> None:
    strategy, module = made(name, ranks), Unmovable()
    strategy.connect(module)
    strategy.accelerator = CPUAccelerator()
    if name != "single":
        strategy.cluster_environment = LightningEnvironment()
    strategy.teardown()
    assert module.moved == 0


def test_one_device_is_one_rank_and_clips_to_the_norm() -> None:
    strategy = made("single", 1)
    assert strategy.ranks == 1 and isinstance(strategy.accumulating(last=False), nullcontext)
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 4.0]), torch.tensor([4.0])
    assert strategy.clip(parameters, 0.0) == strategy.clip(parameters, 10.0) == 6.0
    torch.testing.assert_close(parameters[0].grad, torch.tensor([2.0, 4.0]))
    assert strategy.clip(parameters, 3.0) == 6.0
    torch.testing.assert_close(parameters[0].grad, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([2.0]))


def test_deepspeed_casts_nothing() -> None:
    precision, linear = KeepPrecision(), nn.Linear(2, 2).bfloat16()
    assert precision.convert_module(linear).weight.dtype is torch.bfloat16
    assert precision.convert_input(torch.ones(1, dtype=torch.float64)).dtype is torch.float64
