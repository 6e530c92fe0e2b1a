"""Checkpoints: all that Lightning needs, without pickle; and adapters that plain PEFT reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.lora.adapter import ONE
from kimi_audio_ft.training.adapters import AdapterState
from kimi_audio_ft.training.callbacks import CurveRecorder
from kimi_audio_ft.training.checkpoint import (
    KeepCheckpoints,
    PackCheckpointIO,
    checkpoint_of,
    read_checkpoint,
    write_checkpoint,
)
from kimi_audio_ft.training.fit import make_trainer
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.trial import Trial

Fit = Callable[..., dict[str, Any]]
Config = Callable[..., TrainConfig]


class Remembering(PackCheckpointIO):
    """Also keeps what Lightning handed over."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.given = copy.deepcopy(checkpoint)
        super().save_checkpoint(checkpoint, path, storage_options)


def assert_same(ours: Any, theirs: Any, place: str = "") -> None:
    """Equal values of equal types, all the way down."""
    assert type(ours) is type(theirs), (place, type(ours), type(theirs))
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), place
    elif isinstance(ours, dict):
        assert set(ours) == set(theirs), place
        for key in ours:
            assert_same(ours[key], theirs[key], f"{place}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), place
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{place}[{index}]")
    else:
        assert ours == theirs, place


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"target_modules": "decoder_and_branch"}])
def test_lightning_gets_back_what_it_gave(trial_config: Config, tmp_path: Path, lora: dict[str, Any]) -> None:
    config = trial_config(lora=lora, trainer={"max_steps": 3, "save_every": 3})
    trial = Trial(config)
    trial.data.setup()
    with trial.base.new_adapters({ONE: (config.lora, 1)}) as model:
        module = AdapterTraining(model, [AdapterState(config.optim, 1)], 3)
        recorder = CurveRecorder(1, 0, lambda: {ONE: 0.5})
        callbacks = [recorder, KeepCheckpoints([tmp_path], 3, 1)]
        trainer = make_trainer(module, config.trainer, 1, {ONE: tmp_path}, callbacks)
        trainer.strategy.checkpoint_io = remembering = Remembering({ONE: (tmp_path, "{}")})
        trainer.fit(module, datamodule=trial.data)
        names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    loaded = remembering.load_checkpoint(checkpoint_of([tmp_path]))
    given = remembering.given
    assert set(loaded) == set(given) and {"optimizer_states", "lr_schedulers", "loops", "callbacks"} <= set(given)
    for key in given.keys() - {"state_dict"}:
        assert_same(loaded[key], given[key], key)
    assert set(given["state_dict"]) == set(loaded["state_dict"]) == names, "the adapter and nothing else"
    assert all(torch.equal(loaded["state_dict"][name], given["state_dict"][name]) for name in names)
    assert given["callbacks"]["CurveRecorder"][ONE]["rows"], "the curves travel with it"


def test_all_types_survive(tmp_path: Path) -> None:
    checkpoint = {
        "state_dict": {"model.base_model.model.x.lora_A.default.weight": torch.ones(2, 3)},
        "tensors": {"a": torch.tensor(3), "b": [torch.zeros(2, dtype=torch.bfloat16), torch.tensor([True])]},
        "shared": [torch.arange(3).reshape(3, 1).T, torch.empty(0)],
        "numbers": [1, -1.5, float("inf"), True, None, "字"],
        "nested": {"deep": [[], {}, [{}]]},
    }
    write_checkpoint(checkpoint, tmp_path / "c", '{"r": 1}')
    assert_same(read_checkpoint(tmp_path / "c"), checkpoint)
    assert json.loads((tmp_path / "c" / "adapter_config.json").read_text()) == {"r": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"], "no draft is left"


def test_a_type_that_json_does_not_know_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a checkpoint holds a set"):
        write_checkpoint({"state_dict": {}, "bad": {1, 2}}, tmp_path / "c", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_newer_checkpoint_replaces_one_of_its_name(tmp_path: Path) -> None:
    for value in (1, 2):
        write_checkpoint({"state_dict": {}, "value": value}, tmp_path / "c", "{}")
    assert read_checkpoint(tmp_path / "c")["value"] == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "c"]


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"use_rslora": True, "init_lora_weights": "gaussian"}])
def test_plain_peft_reads_a_checkpoint(trial_config: Config, fit: Fit, tmp_path: Path, lora: dict[str, Any]) -> None:
    """The checkpoint of the last step is the adapter; an earlier one is an earlier adapter."""
    config = trial_config(lora=lora, trainer={"max_steps": 2, "save_every": 1})
    fit(config)
    adapter, work = tmp_path / "fit" / "adapter", tmp_path / "fit" / "work"
    final = load_file(adapter / "adapter_model.safetensors")
    last, first = work / "step=00000002", work / "step=00000001"
    assert_same(load_file(last / "adapter_model.safetensors"), final)
    earlier = load_file(first / "adapter_model.safetensors")
    assert set(earlier) == set(final) and any(not torch.equal(earlier[key], final[key]) for key in final)
    base, ids = Trial(config).base.load(), torch.arange(9).reshape(1, 9)
    logits = []
    for folder in (adapter, last, first):
        loaded = peft.PeftModel.from_pretrained(base, str(folder)).eval()
        with torch.no_grad():
            logits.append(loaded(ids + 1064, ids + 20, audio_branch=False).text_logits)
        loaded.unload()
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def test_no_pickle_anywhere(trial_config: Config, fit: Fit, tmp_path: Path) -> None:
    fit(trial_config(trainer={"max_steps": 3, "save_every": 1}))
    files = [path for path in (tmp_path / "fit").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".jsonl", ".safetensors"}
    for path in files:
        start = path.read_bytes()[:2]
        assert not start.startswith((b"PK", b"\x80")), f"{path} is a zip of pickles, or a pickle"


def test_the_newest_are_kept(trial_config: Config, fit: Fit, tmp_path: Path) -> None:
    fit(trial_config(trainer={"max_steps": 7, "save_every": 2, "save_keep": 2}))
    work = tmp_path / "fit" / "work"
    assert sorted(path.name for path in work.iterdir()) == ["step=00000004", "step=00000006"]
    assert checkpoint_of([work]) == "step=00000006"
    assert checkpoint_of([tmp_path / "nothing"]) is None
