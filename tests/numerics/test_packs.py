"""An adapter that was trained in a pack is the adapter that was trained alone, whoever its neighbours are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.lora.pack import BIT_FOR_BIT, WITHIN_ROUNDING
from kimi_audio_ft.training.ending import TrainingFailed
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.trial import Trial
from tests.numerics.pack_lab import NAMES, Lab
from tests.sameness import assert_same, assert_within_rounding, is_another, packs_are_exact

Config = Callable[..., TrainConfig]

# 16 conversations, one a step.
THIRTY = {"data": {"batch_size": 1}, "trainer": {"max_steps": 30, "accumulate": 1, "log_every": 5}}
FEW = {"data": {"batch_size": 1}, "trainer": {"max_steps": 6, "log_every": 4}}
DROPOUT = {name: {"lora": {"lora_dropout": 0.2}} for name in NAMES}

# What else is different: of the config, of single members.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "thirty_steps": (THIRTY, {"a8": {"lora": {"lora_dropout": 0.2}}}),
    "dropout_and_recomputation": ({**FEW, "model": {"gradient_checkpointing": True}}, DROPOUT),
    "bf16": (
        {"data": {"batch_size": 1}, "trainer": {"max_steps": 4, "accumulate": 1}, "model": {"dtype": "bfloat16"}},
        {"a8": {"lora": {"lora_dropout": 0.1}}},
    ),
    "targets": (
        {"trainer": {"max_steps": 5}},
        {
            "a4": {"lora": {"target_modules": "attention"}},
            "a8": {"lora": {"target_modules": ["mlp", "lm_head"], "lora_dropout": 0.3, "lora_alpha": 12}},
            "a16": {"lora": {"target_modules": "decoder_and_branch", "use_rslora": True}},
        },
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_pack_equals_its_adapters_alone(trial_config: Config, lab: Lab, way: str) -> None:
    """Adapters, curves and facts, on one thread: as exactly as the facts say."""
    changes, members = copy.deepcopy(WAYS[way])
    config = trial_config(**changes)
    exact = packs_are_exact(config.model.dtype)
    together = lab.run(config, NAMES, members)
    for name in NAMES:
        alone = lab.alone(config, name, members)
        assert_same(lab.folder(name), alone, config.model.dtype)
        for file in ("adapter_config.json", "data.json"):
            assert json.loads((lab.folder(name) / file).read_text()) == json.loads((alone / file).read_text())
        facts = lab.facts[alone]
        assert together[name].keys() == facts.keys()
        same = ("steps", "trainable_parameters", *(("final_train_loss", "final_val_loss") if exact else ()))
        assert [together[name][fact] for fact in same] == [facts[fact] for fact in same]
        pack = together[name]["pack"]
        assert pack["size"] == 3 and facts["pack"].keys() == {"size", "seconds"} and facts["pack"]["size"] == 1
        assert pack["equals_alone"] == (BIT_FOR_BIT if exact else WITHIN_ROUNDING)


@pytest.mark.parametrize("way", WAYS)
def test_an_adapter_by_itself_is_plain_pefts(trial_config: Config, lab: Lab, way: str) -> None:
    """With powers of two as scaling and with others, and with recomputation."""
    changes, members = copy.deepcopy(WAYS[way])
    config = trial_config(**changes)
    alone = (lab.alone(config, "a8", members, plain) for plain in (False, True))
    assert_within_rounding(*alone, config.model.dtype)


def test_the_batched_form_is_close(trial_config: Config, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty steps with dropout; and it is not secretly the other form, whose bits it may well have."""
    products, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *factors: products.append(factors[0].shape) or bmm(*factors))
    changes, members = copy.deepcopy(WAYS["thirty_steps"])
    config = trial_config(**changes)
    results = lab.run(config, NAMES, members, dispatch="batched")
    for name in NAMES:
        assert_within_rounding(lab.folder(name), lab.alone(config, name, members))
        assert results[name]["pack"]["equals_alone"] == WITHIN_ROUNDING
    assert {shape[0] for shape in products} == {3}


@pytest.mark.bitwise
@pytest.mark.parametrize("dispatch", ["slice", "batched"])
def test_neighbours_do_not_matter(trial_config: Config, lab: Lab, dispatch: str) -> None:
    """In either form; the largest rank is the same in both packs."""
    config = trial_config(**FEW)
    lab.run(config, NAMES, DROPOUT, dispatch=dispatch)
    lab.run(config, ["a16", "a4"], DROPOUT, "others", dispatch=dispatch)
    for name in ("a4", "a16"):
        assert_same(lab.folder(name, "others"), lab.folder(name))


@pytest.mark.parametrize("dispatch", ["slice", "batched"])
def test_a_neighbour_that_fails(
    trial_config: Config, lab: Lab, dispatch: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It alone is reported, its rows leave the batch, and the others do not notice."""
    passes: list[int] = []
    forward = AdapterTraining.forward

    def counted(self: AdapterTraining, batch: dict[str, Any], average: str) -> torch.Tensor:
        passes.append(batch["copies"])
        return forward(self, batch, average)

    monkeypatch.setattr(AdapterTraining, "forward", counted)
    config, bad = trial_config(**FEW), {**DROPOUT, "a8": {"optim": {"lr": 1e30}}}
    results = lab.run(config, NAMES, bad, dispatch=dispatch)
    failure = results["a8"]
    assert isinstance(failure, TrainingFailed)
    assert str(failure).startswith("optim.lr=1e+30: the training loss is nan at step")
    assert "a8 leaves its pack" in caplog.text
    assert not lab.folder("a8").exists()
    assert set(passes) == {3, 2} and passes == sorted(passes, reverse=True)
    if dispatch == "batched":
        lab.run(config, ["a4", "a16"], DROPOUT, "others", dispatch=dispatch)
    for name in ("a4", "a16"):
        alone = lab.alone(config, name, DROPOUT) if dispatch == "slice" else lab.folder(name, "others")
        assert_same(lab.folder(name), alone)


def test_all_fail(trial_config: Config, lab: Lab) -> None:
    bad = {name: {"optim": {"lr": 1e30}} for name in ("a4", "a8")}
    results = lab.run(trial_config(**FEW), ["a4", "a8"], bad)
    assert all(isinstance(result, TrainingFailed) for result in results.values())


def test_the_base_is_left_as_it_was(trial_config: Config, lab: Lab) -> None:
    """Weights, forwards, and what is trained."""
    config = trial_config(data={"batch_size": 1}, trainer={"max_steps": 2})
    model = Trial(config).base.load()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lab.run(config, NAMES, DROPOUT)
    assert Trial(config).base.load() is model
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], value) for key, value in before.items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


class TestControls:
    """What a careless pack would do is seen by the comparison above."""

    @pytest.fixture
    def differs(self, trial_config: Config, lab: Lab) -> Callable[[], set[str]]:
        def names() -> set[str]:
            config = trial_config(**FEW)
            lab.run(config, NAMES, DROPOUT)
            return {name for name in NAMES if is_another(lab.folder(name), lab.alone(config, name, DROPOUT))}

        return names

    @pytest.mark.bitwise
    def test_nothing_careless(self, differs: Callable[[], set[str]]) -> None:
        assert differs() == set()

    def test_one_clipping_norm(self, differs: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
        from kimi_audio_ft.training.strategies import OneDevice

        def clip_all(self: OneDevice, parameters: Any, norm: float) -> torch.Tensor:
            everything = [p for group in self.optimizers[0].param_groups for p in group["params"]]
            return torch.nn.utils.clip_grad_norm_(
                everything if len(self.lightning_module.states) > 1 else parameters, norm
            )

        monkeypatch.setattr(OneDevice, "clip", clip_all)
        assert differs() == set(NAMES)

    @pytest.mark.bitwise
    def test_mean_of_losses(self, differs: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
        forward = AdapterTraining.forward

        def averaged(self: AdapterTraining, batch: dict[str, Any], average: str) -> torch.Tensor:
            losses = forward(self, batch, average)
            return losses / len(losses) if self.training else losses

        monkeypatch.setattr(AdapterTraining, "forward", averaged)
        assert differs() == set(NAMES)

    def test_one_dropout_generator(self, differs: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
        from kimi_audio_ft.lora.pack import DropoutSeed

        shared = torch.Generator()

        def common(self: DropoutSeed, layer: str, device: torch.device) -> torch.Generator:
            return shared

        monkeypatch.setattr(DropoutSeed, "generator", common)
        assert differs() >= {"a8", "a16"}, "the first to draw may draw what it drew alone"
