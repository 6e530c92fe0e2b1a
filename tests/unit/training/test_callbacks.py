"""What a training tells about its steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import LoraConfig, OptimConfig, TrainConfig
from kimi_audio_ft.training import callbacks
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


@pytest.mark.slow
def test_steps_are_reported(trial_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the positions per second of all adapters together, without padding; rarely, but always the last step."""
    config = trial_config(trainer={"max_steps": 3})
    trial, optim = Trial(config), OptimConfig()
    members = [AdapterSpec(n, LoraConfig(r=2), optim, 1, tmp_path / n, tmp_path / f"{n}.work") for n in ("x", "y")]
    seen: list[tuple[str, int, int, float, float]] = []
    monkeypatch.setattr(callbacks, "REPORT_SECONDS", 0.0)
    fit_adapters(trial.base, members, trial.data, config.trainer, on_step=lambda *values: seen.append(values))
    assert [values[:3] for values in seen] == [(name, step, 3) for step in (1, 2, 3) for name in ("x", "y")]
    assert all(math.isfinite(loss) and rate > 0 for *_, loss, rate in seen)
    monkeypatch.setattr(callbacks, "REPORT_SECONDS", 1e9)
    seen.clear()
    again = [replace(member, work=tmp_path / f"{member.name}.again") for member in members]
    fit_adapters(trial.base, again, trial.data, config.trainer, on_step=lambda *values: seen.append(values))
    assert [values[:2] for values in seen] == [("x", 3), ("y", 3)]


def test_the_seconds_of_a_training_are_those_of_all_its_attempts(trial_config: Config, tmp_path: Path) -> None:
    config = trial_config(trainer={"max_steps": 2})
    trial = Trial(config)
    members = [AdapterSpec(n, config.lora, config.optim, 1, tmp_path / n, tmp_path / f"{n}.work") for n in ("x", "y")]
    paused = fit_adapters(trial.base, members, trial.data, config.trainer, until=1)
    state = tmp_path / "x.work" / "step=00000001" / "state.json"
    saved = json.loads(state.read_text(encoding="utf-8"))
    curve = saved["callbacks"]["CurveRecorder"]
    assert paused["x"]["train_seconds"] == round(curve["seconds"], 3) > 0
    curve["seconds"] = 1000.0
    state.write_text(json.dumps(saved), encoding="utf-8")
    ended = fit_adapters(trial.base, members, trial.data, config.trainer)
    assert ended["x"]["train_seconds"] > 1000 > ended["y"]["train_seconds"] > paused["y"]["train_seconds"]
