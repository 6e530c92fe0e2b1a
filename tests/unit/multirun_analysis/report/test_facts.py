from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kimi_audio_ft.store.signature import flatten
from multirun_analysis import load_sweep
from multirun_analysis.messages import ENGLISH
from multirun_analysis.report.facts import config_differences, flat_config, sweep_facts
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


def test_differences_of_the_trials_environments_are_told(sweep: Any) -> None:
    def environments() -> str:
        return dict(sweep_facts(load_sweep(sweep.folder), ENGLISH))[ENGLISH("facts.environment")]

    made = {"device": "CPU", "packages": {"torch": "2.9.0"}, "commit": "a" * 40}
    sweep.trial(0, environment={"training": made, "decoding": made})
    sweep.trial(1, rank=16, environment={"training": made, "decoding": made})
    assert environments() == "none"
    other = made | {"packages": {"torch": "2.10.0"}, "commit": f"{'a' * 40}-dirty"}
    sweep.trial(2, rank=32, environment={"training": other, "decoding": made})
    assert environments() == (
        f"training.packages.torch: 2.9.0 (2), 2.10.0 (1); training.commit: {'a' * 40} (2), {'a' * 40}-dirty (1)"
    )


def test_environments_that_were_not_recorded_are_not_called_alike(sweep: Any) -> None:
    sweep.trial(0)
    facts = dict(sweep_facts(load_sweep(sweep.folder), ENGLISH))
    assert facts[ENGLISH("facts.environment")] == "not recorded"


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
