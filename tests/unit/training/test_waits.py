"""A step of a training on a GPU: one pass that holds all of it, and nothing for which the host waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.train import DecodingConfig, TrainConfig
from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.data.dataset import ConversationDataset, Draw, Sample, make_batch
from kimi_audio_ft.decoding.generate import generate_texts
from kimi_audio_ft.decoding.transcribe import to_device
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.runtime.devices import free_memory
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.filling import ENOUGH, largest_step
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.trial import Trial
from tests.pretend_gpu import PretendedGPUs

pytestmark = pytest.mark.slow

Config = Callable[..., TrainConfig]


@pytest.fixture
def with_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations have features of their codes, as from a store."""
    plain = ConversationDataset.__getitem__

    def get(dataset: ConversationDataset, item: int | Draw) -> Sample:
        sample = plain(dataset, item)
        runs = [len(list(run)) for code, run in groupby(sample.layout.is_continuous_mask) if code]
        sample.features = [torch.full((length, 384), 0.1) for length in runs]
        return sample

    monkeypatch.setattr(ConversationDataset, "__getitem__", get)


@pytest.mark.usefixtures("with_features")
@pytest.mark.parametrize(("adapters", "own_data", "dtype"), [(4, False, "bfloat16"), (2, True, "float32")])
def test_between_batch_and_optimizer_nobody_waits(
    trial_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: int, own_data: bool, dtype: str
) -> None:
    """Two micro-batches of two conversations each are one pass for each of the data."""
    trainer = {"accelerator": "gpu", "max_steps": 1}
    model = {"dtype": dtype}
    seeds = [1 + own_data * number for number in range(adapters)]
    trials = [Trial(trial_config(trainer=trainer, model=model, seed=seed)) for seed in seeds]
    waits, uploads, rows = list[Counter[str]](), list[Counter[str]](), list[int]()
    plain_training_step, plain_step = AdapterTraining.training_step, torch.optim.AdamW.step
    with PretendedGPUs() as gpus:

        def training_step(module: AdapterTraining, step: Any, number: int) -> None:
            for [one] in step.values() if own_data else [step]:
                rows.append(len(one["ids"]))
            gpus.waits.clear()
            gpus.uploads.clear()
            plain_training_step(module, step, number)

        def optimizer_step(optimizer: torch.optim.AdamW, *args: Any, **options: Any) -> Any:
            waits.append(Counter(gpus.waits))
            uploads.append(Counter(gpus.uploads))
            return plain_step(optimizer, *args, **options)

        monkeypatch.setattr(AdapterTraining, "training_step", training_step)
        monkeypatch.setattr(torch.optim.AdamW, "step", optimizer_step)
        specs = [
            AdapterSpec(f"a{n}", one.config.lora, one.config.optim, n, tmp_path / f"a{n}", tmp_path / f"w{n}")
            for n, one in enumerate(trials)
        ]
        data: ConversationData | Mapping[str, ConversationData] = trials[0].data
        if own_data:
            data = {spec.name: trial.data for spec, trial in zip(specs, trials, strict=True)}
        results = fit_adapters(trials[0].base, specs, data, trials[0].config.trainer)
        assert gpus.waits["tolist"], "losses are read behind the optimizer"
        positions = trials[0].data.pass_positions or 0
        assert 0 < positions <= max(largest_step(trials[0].data)[0], ENOUGH)
        facts: Any = results["a0"]
        assert facts["passes"] == {"positions": adapters * positions, "recomputed": False}
        trials[0].base.release()
        free_memory()
    assert rows == [4] * (adapters if own_data else 1)
    assert waits == [Counter()] and uploads == [Counter()]


def test_a_decoding_step_waits_once_for_its_tokens(trial_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, steps, plain = Trial(trial_config(trainer={"accelerator": "gpu"})), 0, KimiAudioForCausalLM.forward

    def forward(model: KimiAudioForCausalLM, **inputs: Any) -> Any:
        nonlocal steps
        steps += 1
        return plain(model, **inputs)

    monkeypatch.setattr(KimiAudioForCausalLM, "forward", forward)
    setting, tokenizer = DecodingConfig(max_new_tokens=6), trial.base.tokenizer
    with PretendedGPUs() as gpus:
        prompts, model = trial.evaluation.dataset(False, for_generation=True), trial.base.load()
        batch = make_batch([prompts[index] for index in range(3)], tokenizer.pad_id, left=True)
        inputs = to_device(batch["inputs"], trial.base.device)
        gpus.waits.clear()
        gpus.uploads.clear()
        generate_texts(model, inputs, [setting], [[1, 2, 3]], -1, tokenizer.pad_id, likelihoods=True)  # none ends early
        trial.base.release()
        free_memory()
    assert steps == 6
    # Before the first step it is asked for padding, last positions and limits of answers, and given empty caches.
    assert gpus.waits.total() <= steps + 6
    assert gpus.uploads["tensor"] <= 2 * steps + 10 and gpus.uploads["index"] <= 3
