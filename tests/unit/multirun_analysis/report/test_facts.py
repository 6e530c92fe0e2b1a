from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kimi_audio_ft.store.signature import flatten
from multirun_analysis.report.facts import config_differences, flat_config
from multirun_analysis.sweep import Trial, collect


def trials(sweep: Any, *configs: Any) -> list[Trial]:
    for number, config in enumerate(configs):
        folder: Path = sweep.trial(number, rank=8 * (number + 1))
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return collect(sweep.folder).trials


def test_only_what_differs_is_told(sweep: Any) -> None:
    one = {"lora": {"r": 8, "lora_alpha": 16}, "data": {"prompt": None, "terms": [1, 2]}, "trainer": {"max_steps": 3.0}}
    two = {"lora": {"r": 16, "lora_alpha": 32}, "data": {"prompt": "x", "terms": [1, 2]}, "trainer": {"max_steps": 3}}
    here, there = trials(sweep, one, two)
    assert config_differences(here, there) == [
        ("lora.r", 8, 16),
        ("lora.lora_alpha", 16, 32),
        ("data.prompt", None, "x"),
    ]
    assert config_differences(here, here) == []


def test_a_config_that_is_missing_or_half_written_leaves_the_recorded_parameters(sweep: Any) -> None:
    here, there = trials(sweep, {}, {})
    (here.folder / ".hydra" / "config.yaml").unlink()
    (there.folder / ".hydra" / "config.yaml").write_text("lora: {r: [8", encoding="utf-8")
    assert flat_config(here) == here.params and flat_config(there) == there.params
    assert [key for key, *_ in config_differences(here, there)] == ["lora.r", "lora.lora_alpha"]


def test_the_whole_config_is_told_by_dotted_keys(sweep: Any) -> None:
    words = "请转写：\n\nlora: 8\nwrite it down " + "a long line " * 20
    config = {"data": {"prompt": words}, "scoring": {"terms": [words, "b"]}, "名": [1, {"a": words}], "x": {}}
    [trial] = trials(sweep, config)
    assert flat_config(trial) == flatten(config) | trial.params
