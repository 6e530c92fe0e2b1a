"""The mean of adapters is the mean of their updates, and no other one of its rank is nearer to it once it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.lora.adapter import add_adapter, load_adapter, read_adapter, save_adapter
from kimi_audio_ft.lora.average import mean_of_adapters
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.paths import TINY_MODEL


@pytest.fixture(scope="module")
def model() -> KimiAudioForCausalLM:
    return KimiAudioForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32, audio_branch=False)


def saved(model: KimiAudioForCausalLM, folder: Path, seed: int, **settings: Any) -> Path:
    """An adapter with random factors."""
    adapted = add_adapter(model, LoraConfig(**settings), 1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(adapted, folder)
    adapted.unload()
    return folder


def updates(folder: Path) -> dict[str, Tensor]:
    """The change of every linear, by its name."""
    config, tensors = read_adapter(folder)
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    ends = (".lora_A.weight", ".lora_B.weight")
    names = {key.removesuffix(ends[0]) for key in tensors if key.endswith(ends[0])}
    return {name: scale * tensors[name + ends[1]] @ tensors[name + ends[0]] for name in names}


def test_the_mean_is_that_of_the_updates(model: KimiAudioForCausalLM, tmp_path: Path) -> None:
    """Of other ranks, scales and linears."""
    folders = [
        saved(model, tmp_path / "a", 1, r=2),
        saved(model, tmp_path / "b", 2, r=4, use_rslora=True, lora_alpha=3),
        saved(model, tmp_path / "c", 3, r=1, target_modules="attention"),
    ]
    mean = mean_of_adapters(folders)
    mean.save(tmp_path / "mean")
    found, own = updates(tmp_path / "mean"), [updates(folder) for folder in folders]
    assert (mean.config.r, mean.config.lora_alpha, mean.kept) == (7, 7, 1.0) and found.keys() == own[0].keys()
    for name, update in found.items():
        parts = [one[name] / 3 for one in own if name in one]
        torch.testing.assert_close(update, torch.stack(parts).sum(0), atol=1e-7, rtol=1e-5)
    adapted = load_adapter(model, tmp_path / "mean")  # fits the base, and no tensor is missing
    adapted.unload()
    plain = peft.PeftModel.from_pretrained(model, tmp_path / "mean")
    deltas = {path: m.get_delta_weight("default") for path, m in plain.named_modules() if isinstance(m, LoraLayer)}
    assert deltas.keys() == found.keys() and all(torch.allclose(deltas[name], found[name]) for name in found)
    plain.unload()


def test_one_adapter_is_its_own_mean(model: KimiAudioForCausalLM, tmp_path: Path) -> None:
    folder = saved(model, tmp_path / "a", 1, r=2, lora_alpha=4)
    mean = mean_of_adapters([folder])
    mean.save(tmp_path / "mean")
    own = updates(folder)
    assert mean.config.target_modules == read_adapter(folder)[0].target_modules and mean.config.r == 2
    assert all(torch.equal(update, own[name]) for name, update in updates(tmp_path / "mean").items())


def test_a_lower_rank_keeps_the_largest_singular_values(model: KimiAudioForCausalLM, tmp_path: Path) -> None:
    folders = [saved(model, tmp_path / str(seed), seed, r=4, target_modules="attention") for seed in range(2)]
    whole, cut = mean_of_adapters(folders), mean_of_adapters(folders, rank=3)
    whole.save(tmp_path / "whole")
    cut.save(tmp_path / "cut")
    wanted, found = updates(tmp_path / "whole"), updates(tmp_path / "cut")
    lost = norm = 0.0
    for name, update in wanted.items():
        values = torch.linalg.svdvals(update.double()).square()
        error = float((found[name] - update).double().square().sum())
        assert error == pytest.approx(float(values[3:].sum()), rel=1e-3)
        lost, norm = lost + error, norm + float(values.sum())
    assert cut.config.r == 3 and cut.kept == pytest.approx(1 - lost / norm, rel=1e-4) and 0 < cut.kept < 1
    with pytest.raises(ConfigError, match="rank=8: must be lower than 8, the sum of the adapters' ranks"):
        mean_of_adapters(folders, rank=8)
    assert all(factor.shape[0] == 3 for key, factor in cut.tensors.items() if "lora_A" in key)


def test_what_is_no_product_of_two_factors_is_refused(model: KimiAudioForCausalLM, tmp_path: Path) -> None:
    folder = saved(model, tmp_path / "a", 1, r=2, use_dora=True, target_modules="attention")
    with pytest.raises(DataError, match="has use_dora: its update is no product of two factors"):
        mean_of_adapters([folder, folder])
