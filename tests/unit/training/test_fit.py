"""Fitting an adapter: what is trained, for how long, and what is written down about it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from torch import Tensor

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.lora.adapter import ONE
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.training.adapters import AdapterState, rate_factor
from kimi_audio_ft.training.callbacks import CurveRecorder
from kimi_audio_ft.training.ending import TrainingFailed
from kimi_audio_ft.training.fit import make_trainer
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.trial import Trial

Fit = Callable[..., dict[str, Any]]
Config = Callable[..., TrainConfig]


def curve(tmp_path: Path, split: str, name: str = "fit") -> list[dict[str, Any]]:
    rows = read_jsonl(tmp_path / name / "adapter" / "curves.jsonl")
    return [row for row in rows if row["split"] == split]


def adapter(tmp_path: Path, name: str = "fit") -> dict[str, Tensor]:
    return load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")


class TestLength:
    """16 conversations in batches of 2, two batches a step: 4 steps an epoch."""

    @pytest.mark.slow
    def test_epochs(self, trial_config: Config, fit: Fit, tmp_path: Path) -> None:
        facts = fit(trial_config(trainer={"max_epochs": 2}))
        assert facts["steps"] == 8
        train, val = curve(tmp_path, "train"), curve(tmp_path, "val")
        assert [row["step"] for row in train] == list(range(1, 9))
        assert [row["epoch"] for row in train] == [0.25 * step for step in range(1, 9)]
        assert [(row["step"], row["epoch"], row["lr"]) for row in val] == [(4, 1.0, None), (8, 2.0, None)]
        assert all(row["grad_norm"] > 0 for row in train) and all(row["grad_norm"] is None for row in val)
        assert facts["final_train_loss"] == sum(row["loss"] for row in train[4:]) / 4  # of the last epoch
        assert facts["final_val_loss"] == val[-1]["loss"]
        assert facts["trainable_parameters"] == sum(value.numel() for value in adapter(tmp_path).values())
        assert facts["train_seconds"] > 0

    @pytest.mark.slow
    def test_the_final_loss_is_the_last_epochs_mean_whatever_is_logged(self, trial_config: Config, fit: Fit) -> None:
        def final_loss(log_every: int) -> float:
            trainer = {"max_epochs": 9, "max_steps": 6, "log_every": log_every}
            return fit(trial_config(trainer=trainer), f"every {log_every}")["final_train_loss"]

        assert final_loss(1) == final_loss(4) == final_loss(9)

    def test_a_last_step_of_fewer_batches(self, trial_config: Config, fit: Fit, tmp_path: Path) -> None:
        facts = fit(trial_config(trainer={"max_epochs": 1, "accumulate": 3}))
        assert facts["steps"] == 3
        assert [row["epoch"] for row in curve(tmp_path, "train")] == [0.3333, 0.6667, 1.0]

    @pytest.mark.parametrize("steps", [4, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (3, 6))])
    def test_max_steps_cuts_and_still_validates(
        self, trial_config: Config, fit: Fit, tmp_path: Path, steps: int
    ) -> None:
        assert fit(trial_config(trainer={"max_epochs": 9, "max_steps": steps}))["steps"] == steps
        assert [row["step"] for row in curve(tmp_path, "train")] == list(range(1, steps + 1))
        assert [row["step"] for row in curve(tmp_path, "val")] == sorted({4, steps} & set(range(steps + 1)))

    def test_max_steps_beyond_the_epochs(self, trial_config: Config, fit: Fit) -> None:
        assert fit(trial_config(trainer={"max_epochs": 1, "max_steps": 99}))["steps"] == 4

    @pytest.mark.slow
    def test_val_every(self, trial_config: Config, fit: Fit, tmp_path: Path) -> None:
        """Steps are counted over epochs, also where an epoch's last step has fewer batches."""
        fit(trial_config(trainer={"max_epochs": 2, "accumulate": 3, "val_every": 2}))
        assert [row["step"] for row in curve(tmp_path, "val")] == [2, 4, 6]
        fit(trial_config(trainer={"max_epochs": 2, "accumulate": 3, "val_every": 5}), "rare")
        assert [row["step"] for row in curve(tmp_path, "val", "rare")] == [5, 6]


class TestCurves:
    @pytest.mark.slow
    def test_rates_are_those_that_made_the_steps(self, trial_config: Config, fit: Fit, tmp_path: Path) -> None:
        for schedule in ("linear", "cosine", "constant"):
            optim = {"lr": 2e-3, "schedule": schedule, "warmup_ratio": 0.3}
            fit(trial_config(optim=optim, trainer={"max_steps": 6}), schedule)
            factor = rate_factor(schedule, 6, 0.3)
            rates = [row["lr"] for row in curve(tmp_path, "train", schedule)]
            assert rates == pytest.approx([2e-3 * factor(step) for step in range(6)])

    @pytest.mark.slow
    def test_a_row_is_the_mean_of_its_steps(self, trial_config: Config, fit: Fit, tmp_path: Path) -> None:
        fit(trial_config(trainer={"max_steps": 7}), "each")
        fit(trial_config(trainer={"max_steps": 7, "log_every": 3}), "third")
        each = [row["loss"] for row in curve(tmp_path, "train", "each")]
        third = [(row["step"], row["loss"]) for row in curve(tmp_path, "train", "third")]
        assert [step for step, _ in third] == [3, 6, 7]
        means = [sum(each[:3]) / 3, sum(each[3:6]) / 3, each[6]]
        assert [loss for _, loss in third] == pytest.approx(means, rel=1e-6)
        same = (adapter(tmp_path, "each"), adapter(tmp_path, "third"))
        assert all(torch.equal(same[0][key], same[1][key]) for key in same[0])

    def test_rows_are_seen_as_they_arise(self, trial_config: Config, fit: Fit, tmp_path: Path) -> None:
        seen: list[dict[str, Any]] = []
        fit(trial_config(trainer={"max_steps": 3}), on_row=seen.append)
        assert seen == read_jsonl(tmp_path / "fit" / "adapter" / "curves.jsonl")

    def test_a_reused_adapter_shows_its_rows_again(self, trial_config: Config) -> None:
        config = trial_config(trainer={"max_steps": 2})
        first: list[dict[str, Any]] = []
        again: list[dict[str, Any]] = []
        fitted = Trial(config).adapter(first.append)
        found = Trial(config).adapter(again.append)
        assert (fitted.reused, found.reused) == (False, True)
        assert first == again and len(first) == 3
        assert found.facts == fitted.facts and found.facts["steps"] == 2


class TestWhatIsTrained:
    def test_every_adapter_tensor_moves_and_the_base_stays_bit_identical(self, trial_config: Config) -> None:
        trial = Trial(trial_config(trainer={"max_steps": 3}))
        with trial.base.new_adapters({ONE: (trial.config.lora, trial.config.seed)}) as model:
            start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        before = {key: value.clone() for key, value in trial.base.load().state_dict().items()}
        end = load_file(trial.adapter().folder / "adapter_model.safetensors")
        assert len(end) == len(start)
        assert not any(torch.equal(end[name.replace(".default.", ".")], value) for name, value in start.items())
        after = trial.base.load().state_dict()
        assert set(after) == set(before) and all(torch.equal(after[key], value) for key, value in before.items())

    def test_text_answers_leave_the_branch_alone(self, trial_config: Config, tmp_path: Path) -> None:
        """With the branch in memory and as a target: it is never computed, and its adapter stays at its start."""
        config = trial_config(lora={"target_modules": "decoder_and_branch"}, trainer={"max_steps": 2})
        trial = Trial(config)
        trial.data.setup()
        calls: list[str] = []
        shapes: list[tuple[int, ...]] = []
        with trial.base.new_adapters({ONE: (config.lora, 1)}) as model:
            base = model.base_model.model
            watched = [*base.model.mimo_layers, base.model.mimo_norm, base.mimo_output]
            hooks = [m.register_forward_hook(lambda m, *_: calls.append(type(m).__name__)) for m in watched]
            hooks.append(base.lm_head.register_forward_hook(lambda _, args, out: shapes.append(tuple(out.shape))))
            start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            module = AdapterTraining(model, [AdapterState(config.optim, 1)], 2)
            recorder = CurveRecorder(1, 0, lambda: {ONE: 0.0})
            trainer = make_trainer(module, config.trainer, 1, {ONE: tmp_path}, [recorder])
            trainer.fit(module, datamodule=trial.data)
            end = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            for hook in hooks:
                hook.remove()
        assert calls == []
        epoch = trial.data.plan.epoch(0)
        batches = [list(batch) for step in (0, 1) for _, batch in groupby(epoch.step(step), lambda draw: draw.number)]
        supervised = [sum(trial.data.plan.supervised[draw.index] for draw in batch) for batch in batches]
        assert len(batches) == 4
        assert shapes == [(count, base.config.vocab_size) for count in supervised]
        same = {name for name in start if torch.equal(start[name], end[name])}
        assert same == {name for name in start if ".mimo_layers." in name}

    @pytest.mark.slow
    def test_dropout_acts_while_training(self, trial_config: Config, fit: Fit, tmp_path: Path) -> None:
        for name, dropout in (("off", 0.0), ("on", 0.5)):
            fit(trial_config(lora={"lora_dropout": dropout}, trainer={"max_steps": 3}), name)
        off, on = adapter(tmp_path, "off"), adapter(tmp_path, "on")
        assert not any(torch.equal(off[key], on[key]) for key in off)

    def test_recomputing_activations_changes_nothing_and_happens(
        self, trial_config: Config, fit: Fit, tmp_path: Path
    ) -> None:
        """Recomputation depends on the layers' training mode, so it is counted and not believed."""
        calls = {}
        for name, recompute in (("kept", False), ("recomputed", True)):
            lora = {"target_modules": "attention"}  # so that the linear that is watched is the base's own
            config = trial_config(model={"gradient_checkpointing": recompute}, trainer={"max_steps": 2}, lora=lora)
            layer = Trial(config).base.load().model.layers[0].mlp.gate_proj
            count = [0]
            hook = layer.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
            fit(config, name)
            hook.remove()
            calls[name] = count[0]
        assert calls["recomputed"] == calls["kept"] + 4, "each of 4 training micro-batches runs a layer twice"
        kept, recomputed = adapter(tmp_path, "kept"), adapter(tmp_path, "recomputed")
        assert all(torch.equal(kept[key], recomputed[key]) for key in kept)


class ClippedNorms(pl.Callback):
    """Norm of all gradients as the optimizer used them, and as it is recorded."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.norms: list[float] = []
        self.recorded: list[float] = []
        trainer.optimizers[0].register_step_post_hook(self._measure)

    def _measure(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, AdapterTraining)
        self.recorded.append(pl_module.states[0].grad_norm)


@pytest.mark.parametrize(("limit", "clips"), [(0.01, True), (0.0, False), (1e6, False)])
def test_gradients_are_clipped(trial_config: Config, tmp_path: Path, limit: float, clips: bool) -> None:
    config = trial_config(optim={"max_grad_norm": limit}, trainer={"max_steps": 2})
    trial = Trial(config)
    trial.data.setup()
    watch = ClippedNorms()
    with trial.base.new_adapters({ONE: (config.lora, 1)}) as model:
        module = AdapterTraining(model, [AdapterState(config.optim, 1)], 2)
        trainer = make_trainer(module, config.trainer, 1, {ONE: tmp_path}, [watch])
        trainer.fit(module, datamodule=trial.data)
    assert len(watch.norms) == 2
    assert all((norm == pytest.approx(0.01, rel=1e-3)) if clips else norm > 0.02 for norm in watch.norms)
    assert all(norm > 0.02 for norm in watch.recorded), "before clipping"
    assert clips or watch.norms == pytest.approx(watch.recorded, rel=1e-5)


def test_validation_loss_does_not_depend_on_its_batches(trial_config: Config, tmp_path: Path) -> None:
    losses = []
    for data in ({"batch_size": 16}, {"batch_size": 8}, {"batch_size": 8, "max_batch_tokens": 40}):
        config = trial_config(data=data)
        trial = Trial(config)
        trial.data.setup()
        with trial.base.new_adapters({ONE: (config.lora, 1)}) as model:
            module = AdapterTraining(model, [AdapterState(config.optim, 1)], 1)
            module.trainer = make_trainer(module, config.trainer, 1, {ONE: tmp_path}, [])
            loader = trial.data.validation_batches()
            losses.append((len(list(loader)), module.validation_loss(loader)[ONE]))
            assert module.training and model.training
    batches, values = zip(*losses, strict=True)
    assert len(set(batches)) > 1
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


class TestNotFinite:
    def test_no_adapter_and_another_rate_works(self, trial_config: Config, private_store: Path) -> None:
        bad = trial_config(optim={"lr": 1e30}, trainer={"max_steps": 4})
        message = r"^optim\.lr=1e\+30: the training loss is (nan|inf) at step \d; it must be finite\. Lower optim\.lr"
        for _ in range(2):  # asked again, it fails again
            with pytest.raises(TrainingFailed, match=message):
                Trial(bad).adapter()
        assert listing() == []
        assert not [path for path in (private_store / "adapter").iterdir() if path.name.endswith(".draft")]
        good = Trial(trial_config(trainer={"max_steps": 4})).adapter()
        assert not good.reused and math.isfinite(good.facts["final_val_loss"])

    def test_what_the_last_step_breaks_is_seen_too(self, trial_config: Config) -> None:
        """The only training loss is finite; the adapter that its step leaves behind is not usable."""
        config = trial_config(optim={"lr": 1e30, "warmup_ratio": 0.0}, trainer={"max_steps": 1})
        with pytest.raises(TrainingFailed, match=r"^optim\.lr=1e\+30: the validation loss is (nan|inf) at step 1"):
            Trial(config).adapter()
        assert listing() == []


def test_an_adapter_stays_float32_over_a_bf16_base(trial_config: Config, fit: Fit, tmp_path: Path) -> None:
    facts = fit(trial_config(model={"dtype": "bfloat16"}, trainer={"max_steps": 3, "save_every": 3}))
    assert math.isfinite(facts["final_val_loss"])
    checkpoint = tmp_path / "fit" / "work" / "step=00000003"
    tensors = [*adapter(tmp_path).values(), *load_file(checkpoint / "state.safetensors").values()]
    assert {value.dtype for value in tensors if value.is_floating_point()} == {torch.float32}


def test_files_beside_the_adapter(trial_config: Config, fit: Fit, tmp_path: Path) -> None:
    fit(trial_config(data={"max_length": 30}, trainer={"max_steps": 2}))
    folder = tmp_path / "fit" / "adapter"
    names = ["adapter_config.json", "adapter_model.safetensors", "curves.jsonl", "data.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    facts = json.loads((folder / "data.json").read_text())
    assert facts["conversations"] + len(facts["left_out"]) == 16 and facts["left_out"]
    assert all(row["positions"] > 30 for row in facts["left_out"])
