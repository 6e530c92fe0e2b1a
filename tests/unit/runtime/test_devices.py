"""Which device, how many processes, and who may start them."""

from __future__ import annotations

import pytest
import torch

from kimi_audio_ft.config.train import TrainerConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.runtime import devices

ZERO = {"zero_optimization": {"stage": 3}}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if PyTorch saw four GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_every_gpu_is_found(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.num_ranks(TrainerConfig(strategy="ddp")) == 4
    assert devices.num_ranks(TrainerConfig(strategy="ddp", devices=2)) == 2
    assert devices.num_ranks(TrainerConfig(strategy="single")) == 1
    assert devices.num_ranks(TrainerConfig(strategy="fsdp", accelerator="cpu")) == 1
    assert devices.device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert devices.device() == torch.device("cuda", 3) and devices.device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"trainer\.devices=8: asks for more GPUs than PyTorch sees \(4\)"):
        devices.num_ranks(TrainerConfig(strategy="ddp", devices=8))


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.num_ranks(TrainerConfig(strategy="ddp")) == 1
    assert devices.num_ranks(TrainerConfig(strategy="ddp", devices=3)) == 3
    assert devices.device() == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"trainer\.accelerator='gpu': needs a GPU"):
        devices.device("gpu")


def test_one_whole_model_needs_no_process_of_its_own() -> None:
    one = {"accelerator": "cpu", "devices": 1}
    assert not devices.in_workers(TrainerConfig(strategy="single", accelerator="cpu"))
    assert not devices.in_workers(TrainerConfig(strategy="ddp", **one))
    assert devices.in_workers(TrainerConfig(strategy="ddp", accelerator="cpu", devices=2))
    assert devices.in_workers(TrainerConfig(strategy="fsdp", **one))
    assert devices.in_workers(TrainerConfig(strategy="deepspeed_zero3", deepspeed=ZERO, **one))


def test_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    devices.refuse_launchers()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"WORLD_SIZE=2: this command starts its own processes.*without torchrun"):
        devices.refuse_launchers()


@pytest.mark.parametrize("key", ["gradient_accumulation_steps", "bf16", "optimizer"])
def test_deepspeed_keys_that_are_ours(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.deepspeed\.{key}=1: is set from our own options"):
        TrainerConfig(strategy="deepspeed_zero3", deepspeed={**ZERO, key: 1})
    with pytest.raises(ConfigError, match=r"trainer\.deepspeed\.zero_optimization\.stage=2: deepspeed_zero3 needs"):
        TrainerConfig(strategy="deepspeed_zero3", deepspeed={"zero_optimization": {"stage": 2}})
