"""What a pack asks of its members, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import LoraConfig, ModelConfig
from kimi_audio_ft.lora.pack import DropoutSeed, Pack, SeededDropout, Share


def logits(model: PeftModel, rows: int) -> torch.Tensor:
    ids = torch.arange(6 * rows).reshape(rows, 6)
    with torch.no_grad():
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        return model(ids + 1064, ids + 20, audio_branch=False, text_positions=everywhere).text_logits


@pytest.fixture
def base() -> Base:
    return Base(ModelConfig(dtype="float32"), "none", "cpu")


def test_a_dora_layer_is_never_packed(base: Base) -> None:
    """The plan must have asked ``why_solo``; a layer whose arithmetic is another one is not passed over in silence."""
    with base.new_adapters({"x": (LoraConfig(), 1), "y": (LoraConfig(use_dora=True), 1)}) as model:
        with pytest.raises(AssertionError, match="cannot be packed"):
            Pack(model, ["x", "y"], "slice")
        assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("dispatch", ["slice", "batched"])
def test_a_closed_pack_is_gone(base: Base, dispatch: str) -> None:
    with base.new_adapters({"x": (LoraConfig(r=2), 1), "y": (LoraConfig(r=4), 2)}) as model:
        model.eval()
        before = logits(model, 2)
        pack = Pack(model, ["x", "y"], dispatch)
        pack.shares = [Share(name, 1, 0, 6) for name in "xy"]
        assert any("forward" in vars(module) for module in model.modules())
        logits(model, 2)
        pack.close()
        assert not any("forward" in vars(module) for module in model.modules())
        assert torch.equal(logits(model, 2), before)


def test_adapters_start_as_alone(base: Base) -> None:
    """The start of each depends on its own seed, not on how many were made before."""
    wanted = {"x": (LoraConfig(r=2), 7), "y": (LoraConfig(r=4, target_modules="attention"), 7), "z": (LoraConfig(), 9)}

    def start(adapters: dict[str, tuple[LoraConfig, int]], name: str) -> dict[str, torch.Tensor]:
        with base.new_adapters(adapters) as model:
            assert all(p.requires_grad == ("lora_" in key) for key, p in model.named_parameters())
            return {key: p.detach().clone() for key, p in model.named_parameters() if f".{name}." in key}

    for name in wanted:
        together, alone = start(wanted, name), start({name: wanted[name]}, name)
        assert together.keys() == alone.keys() and all(torch.equal(together[key], alone[key]) for key in alone)


class TestSeededDropout:
    @pytest.fixture
    def seed(self) -> DropoutSeed:
        seed = DropoutSeed()
        seed.at(1, 0, 3, (2, 5))
        return seed

    @pytest.fixture
    def mask(self, seed: DropoutSeed) -> Callable[..., torch.Tensor]:
        def draw(length: int = 5, layer: str = "model.layers.0.mlp.up_proj") -> torch.Tensor:
            return SeededDropout(0.5, layer, seed)(torch.ones(2, length, 64))

        return draw

    def test_it_is_a_dropout(self, mask: Callable[..., torch.Tensor], seed: DropoutSeed) -> None:
        drawn = mask()
        assert set(drawn.unique().tolist()) == {0.0, 2.0}
        assert 0.4 < float((drawn == 0).float().mean()) < 0.6
        plain = torch.ones(2, 5, 64)
        assert SeededDropout(0.5, "x", seed).eval()(plain) is plain

    def test_the_same_place_draws_the_same(self, mask: Callable[..., torch.Tensor], seed: DropoutSeed) -> None:
        """As when activations are recomputed, whatever was drawn in between."""
        first = mask()
        torch.rand(3)
        mask(layer="model.layers.1.mlp.up_proj")
        assert torch.equal(mask(), first)
        other = DropoutSeed()
        other.at(1, 0, 3, (2, 5))
        assert torch.equal(SeededDropout(0.5, "model.layers.0.mlp.up_proj", other)(torch.ones(2, 5, 64)), first)

    def test_another_place_draws_another(self, mask: Callable[..., torch.Tensor], seed: DropoutSeed) -> None:
        first, layer = mask(), mask(layer="model.layers.1.mlp.up_proj")
        assert not torch.equal(first, layer)
        for where in ((2, 0, 3), (1, 1, 3), (1, 0, 4)):
            seed.at(*where, (2, 5))
            assert not torch.equal(mask(), first)

    def test_a_longer_neighbour_changes_nothing(self, mask: Callable[..., torch.Tensor]) -> None:
        """What stands beyond its own length is dropped; no loss sees it."""
        longer = mask(length=9)
        assert torch.equal(longer[:, :5], mask()) and not longer[:, 5:].any()

    def test_gradients_pass_where_values_do(self, seed: DropoutSeed) -> None:
        x = torch.ones(2, 5, 64, requires_grad=True)
        out = SeededDropout(0.5, "model.x", seed)(x)
        out.sum().backward()
        assert torch.equal(x.grad, out.detach())
