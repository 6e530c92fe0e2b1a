from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import DecodingConfig, LoraConfig, TrainConfig, TrainerConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.sweep.plan import Task, Unit, read_task, write_task


def test_a_task_is_the_same_after_a_trip_through_its_file(tmp_path: Path) -> None:
    greedy = TrainConfig(lora=LoraConfig(r=4, target_modules=["decoder", "attention"]), seed=3)
    sampled = replace(greedy, decoding=DecodingConfig(text_temperature=0.7))
    sharded = replace(greedy, trainer=TrainerConfig(devices=2, deepspeed={"zero_optimization": {"stage": 3}}))
    task = Task(2, [Unit("a1", [greedy, sampled]), Unit("a2", [sharded])], pack_size=4, until=30, log="packs.log")
    write_task(task, tmp_path / "task.json")
    assert read_task(tmp_path / "task.json") == task


def test_a_task_file_is_checked_as_a_command_line_is(tmp_path: Path) -> None:
    write_task(Task(0, [Unit("a1", [TrainConfig()])]), tmp_path / "task.json")
    values = json.loads((tmp_path / "task.json").read_text(encoding="utf-8"))
    values["units"][0]["jobs"][0]["optim"]["lr"] = -1.0
    (tmp_path / "task.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        read_task(tmp_path / "task.json")
