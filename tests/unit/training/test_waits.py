"""No step of a training, and as little as possible of decoding, makes the host wait for a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.runtime.devices import free_memory
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.trial import Trial
from tests.pretend_gpu import PretendedGPUs

pytestmark = pytest.mark.slow

Config = Callable[..., TrainConfig]


@pytest.mark.parametrize(("adapters", "own_data"), [(1, False), (4, False), (2, True)])
def test_between_batch_and_optimizer_nobody_waits(
    trial_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: int, own_data: bool
) -> None:
    trainer = {"accelerator": "gpu", "max_steps": 2}
    configs = [trial_config(trainer=trainer, seed=1 + own_data * number) for number in range(adapters)]
    trials = [Trial(config) for config in configs]
    seen: list[tuple[Counter[str], Counter[str]]] = []
    plain = torch.optim.AdamW.step
    with PretendedGPUs() as gpus:

        def before(module: AdapterTraining, step: Any, number: int) -> None:
            gpus.waits.clear()
            gpus.uploads.clear()
            plain_step(module, step, number)

        def stepped(optimizer: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
            seen.append((Counter(gpus.waits), Counter(gpus.uploads)))
            return plain(optimizer, *args, **kwargs)

        plain_step = AdapterTraining.training_step
        monkeypatch.setattr(AdapterTraining, "training_step", before)
        monkeypatch.setattr(torch.optim.AdamW, "step", stepped)
        specs = [
            AdapterSpec(
                f"a{n}", one.config.lora, one.config.optim, one.config.seed, tmp_path / f"a{n}", tmp_path / f"w{n}"
            )
            for n, one in enumerate(trials)
        ]
        data: ConversationData | Mapping[str, ConversationData] = trials[0].data
        if own_data:
            data = {spec.name: trial.data for spec, trial in zip(specs, trials, strict=True)}
        fit_adapters(trials[0].base, specs, data, configs[0].trainer)
        trials[0].base.release()
        free_memory()
    assert len(seen) == 2
    print(seen)
    assert not any(waits + uploads for waits, uploads in seen)
