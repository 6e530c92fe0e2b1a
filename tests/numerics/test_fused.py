"""Layers and updates as a GPU computes them in bfloat16: as near to float32 as PEFT's and transformers' own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from experiments.bench_gpu.shapes import shapes
from experiments.count_operations import per_layer
from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import LoraConfig, ModelConfig, TrainConfig
from kimi_audio_ft.lora.adapter import ONE, stable_seed
from kimi_audio_ft.lora.pack import WITHIN_ROUNDING, Pack, Share, seed_dropout
from kimi_audio_ft.lora.update import own_updates
from tests.numerics.pack_lab import Lab
from tests.sameness import tensors

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning")

ROWS, LENGTH = 2, 7
# Gradients of bfloat16, by PEFT or by ours, lie 3 to 9 % of their length away from float32's in this model.
NEAR = 0.2


@pytest.fixture
def bases() -> Iterator[dict[str, Base]]:
    settings = ModelConfig(dtype="bfloat16")
    exact, plain = Base(ModelConfig(dtype="float32"), "none", "cpu"), Base(settings, "none", "cpu", plain=True)
    yield {"exact": exact, "plain": plain, "fused": Base(replace(settings, kernels="fused"), "none", "cpu")}
    exact.release()


@contextmanager
def adapted(base: Base, loras: Sequence[LoraConfig], sizes: Sequence[int]) -> Iterator[PeftModel]:
    """The base with adapters whose updates are as large as its own outputs, each with some rows of the batch."""
    names = [ONE, "second", "third"][: len(loras)]
    with base.new_adapters({name: (lora, 1) for name, lora in zip(names, loras, strict=True)}) as model:
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(stable_seed(key))
                parameter.data = 0.15 * torch.randn(parameter.shape, generator=generator)
        for row, name in enumerate(names):
            answers = torch.ones(sizes[row], LENGTH).nonzero(as_tuple=True)
            seed_dropout(model, name).at(row, 0, 0, (sizes[row], LENGTH), answers)
        single = nullcontext() if base.plain else own_updates(model, ONE)
        with single if len(names) == 1 else closing(Pack(model, names, "batched")) as pack:
            if pack is not None:
                pack.shares = [Share(name, n, 0, n * LENGTH) for name, n in zip(names, sizes, strict=True)]
            yield model


def logits(model: PeftModel, rows: int) -> Tensor:
    ids = torch.randint(0, 1000, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    return model(ids, ids.flip(1), audio_branch=False, text_positions=everywhere).text_logits.float()


def gradients(base: Base, loras: Sequence[LoraConfig], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Of a quadratic loss, by parameter, and the logits."""
    with adapted(base, loras, sizes) as model:
        out = logits(model, sum(sizes))
        out.square().mean().backward()
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        assert all(value.dtype == torch.float32 == value.grad.dtype for value in trained.values())
        return {name: value.grad for name, value in trained.items()} | {"logits": out.detach()}


def error(ours: dict[str, Tensor], exact: dict[str, Tensor], name: str = "") -> float:
    """Relative distance of all gradients whose names contain this."""
    one, two = (
        torch.cat([value.double().flatten() for key, value in sorted(some.items()) if key != "logits" and name in key])
        for some in (ours, exact)
    )
    return float((one - two).norm() / two.norm())


WAYS: dict[str, tuple[list[LoraConfig], list[int]]] = {
    "alone": ([LoraConfig(lora_dropout=0.0)], [ROWS]),
    "dropout": ([LoraConfig(lora_dropout=0.2, lora_alpha=12)], [ROWS]),
    "pack": ([LoraConfig(r=4, lora_dropout=0.2), LoraConfig(lora_dropout=0.0), LoraConfig()], [ROWS] * 3),
    "uneven": ([LoraConfig(r=4, lora_dropout=0.2), LoraConfig(target_modules="mlp")], [1, ROWS]),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_as_near_to_float32_as_the_plain_way(bases: dict[str, Base], way: str) -> None:
    """Outputs, and gradients of every adapter's factors of either kind, to the float32 masters."""
    exact, plain, fused = (gradients(base, *WAYS[way]) for base in bases.values())
    for name in [ONE, "second", "third"][: len(WAYS[way][0])]:
        for factor in ("lora_A", "lora_B"):
            errors = [error(some, exact, f"{factor}.{name}.") for some in (fused, plain)]
            assert 0.001 < errors[0] < max(2 * errors[1], 0.05), (name, factor)
            assert errors[1] < NEAR
    apart = [float((some["logits"] - exact["logits"]).norm() / exact["logits"].norm()) for some in (fused, plain)]
    assert apart[0] < 2 * apart[1] < NEAR


def test_a_neighbour_changes_nothing_but_rounding(bases: dict[str, Base]) -> None:
    """Rows, masks and ranks of others are not an adapter's own."""
    loras, sizes = WAYS["pack"]
    together = gradients(bases["fused"], loras, sizes)
    fewer = gradients(bases["fused"], loras[:2], sizes[:2])
    # The loss is a mean over the rows of all.
    rescaled = {key: value * together["logits"].numel() / fewer["logits"].numel() for key, value in together.items()}
    for name in (ONE, "second"):
        ours = {key: value for key, value in rescaled.items() if f".{name}." in key}
        assert error(ours, {key: fewer[key] for key in ours}) < NEAR / 2


def test_recomputation_changes_nothing(bases: dict[str, Base]) -> None:
    kept = gradients(bases["fused"], *WAYS["dropout"])
    settings = replace(bases["fused"].settings, gradient_checkpointing=True)
    again = gradients(replace(bases["fused"], settings=settings), *WAYS["dropout"])
    assert kept.keys() == again.keys() and all(torch.equal(kept[key], again[key]) for key in kept)


def test_changed_masters_are_copied_again(bases: dict[str, Base]) -> None:
    """After an optimizer's step, and without dropout's scale while it is validated."""
    with adapted(bases["fused"], *WAYS["dropout"]) as model:
        before, trained = logits(model, ROWS), [one for one in model.parameters() if one.requires_grad]
        before.square().mean().backward()
        torch.optim.SGD(trained, lr=0.5).step()
        after = logits(model, ROWS)
        assert not torch.equal(after, before)
        model.eval()
        with torch.no_grad():
            ours = logits(model, ROWS)
        states = [one.detach().clone() for one in trained]
    with adapted(bases["plain"], *WAYS["dropout"]) as model, torch.no_grad():
        for parameter, state in zip((one for one in model.parameters() if one.requires_grad), states, strict=True):
            parameter.copy_(state)
        expected = logits(model.eval(), ROWS)
    assert float((ours - expected).norm() / expected.norm()) < NEAR / 4
    assert float((ours - after).norm() / ours.norm()) > NEAR / 4, "dropout is seen"


@pytest.mark.parametrize("kind", [{"foreach": True}, {"fused": True}, {"foreach": False, "fused": False}], ids=str)
def test_masters_that_any_kind_of_adamw_has_changed_are_copied_again(
    bases: dict[str, Base], kind: dict[str, bool]
) -> None:
    """Not every kind raises a tensor's version; a restore does."""
    with adapted(bases["fused"], *WAYS["alone"]) as model:
        trained = [one for one in model.parameters() if one.requires_grad]
        before, states = logits(model, ROWS), [one.detach().clone() for one in trained]
        before.square().mean().backward()
        torch.optim.AdamW(trained, lr=0.1, **kind).step()
        assert not torch.equal(logits(model, ROWS), before)
        with torch.no_grad():
            for one, state in zip(trained, states, strict=True):
                one.copy_(state)
        assert torch.equal(logits(model, ROWS), before)


def test_the_base_is_left_as_it_was(bases: dict[str, Base]) -> None:
    model = bases["fused"].load()
    expected = model(torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long), audio_branch=False)
    for way in ("dropout", "pack"):
        gradients(bases["fused"], *WAYS[way])
    assert not any({"forward", "passing"} & vars(module).keys() for module in model.modules())
    assert not model._forward_pre_hooks and bases["fused"].load() is model
    again = model(torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long), audio_branch=False)
    assert torch.equal(again.text_logits, expected.text_logits)


def test_a_training_is_the_plain_one_within_rounding(trial_config: Any, lab: Lab) -> None:
    """Alone and in a pack; AdamW's epsilon keeps it from magnifying small gradients."""
    changes = {"a8": {"lora": {"lora_dropout": 0.1}, "optim": {"lr": 0.5, "eps": 1.0}}}
    shared: dict[str, Any] = {"data": {"batch_size": 1}, "trainer": {"max_steps": 3, "accumulate": 2}}

    def config(kernels: str) -> TrainConfig:
        return trial_config(**shared, model={"dtype": "bfloat16", "kernels": kernels})

    plain, fused = (lab.alone(config(kernels), "a8", changes) for kernels in ("plain", "fused"))
    facts = lab.run(config("fused"), ["a4", "a8"], changes, dispatch="batched")
    assert facts["a8"]["pack"]["equals_alone"] == WITHIN_ROUNDING
    for ours in (fused, lab.folder("a8")):
        assert 0 < error(tensors(ours), tensors(plain), "lora_B") < NEAR


OPERATIONS = {
    # Adapters of the 7B, and operations and bytes of a layer at 2,880 positions: as they were, and fused.
    "base": ([], None, (45, 4.8e9)),
    "dropout": ([LoraConfig()], (252, 23.9e9), (126, 9.6e9)),
    "pack": ([LoraConfig()] * 4, None, (196, 36.2e9)),
}


@pytest.mark.parametrize("way", OPERATIONS)
def test_operations_of_a_layer(way: str) -> None:
    """Forward and backward; those of ``experiments/gpu_model.md``."""
    loras, *expected = OPERATIONS[way]
    for fused, figures in enumerate(expected):
        if figures is not None:
            operations, size = per_layer(shapes("7b"), loras, bool(fused))
            assert operations == figures[0] and 0.95 * figures[1] < size < figures[1]
