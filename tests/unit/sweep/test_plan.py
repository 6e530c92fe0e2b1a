from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import (
    DataConfig,
    DecodingConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainerConfig,
)
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.sweep.plan import Task, Unit, even_chunks, make_tasks, pack_key, pack_units, read_task, write_task

SOLO = TrainConfig()
TEMPLATE = Task(0, [])


def units(*configs: TrainConfig) -> list[Unit]:
    return [Unit(f"a{number}", [config]) for number, config in enumerate(configs)]


def keys(groups: list[list[Unit]]) -> list[list[str]]:
    return [[unit.key for unit in group] for group in groups]


def test_adapters_may_differ_in_lora_and_optimizer_values() -> None:
    other = replace(
        SOLO,
        lora=LoraConfig(r=32, lora_dropout=0.2, target_modules="attention"),
        optim=OptimConfig(lr=1e-3, weight_decay=0.1, schedule="cosine", warmup_ratio=0.1, max_grad_norm=0.0),
    )
    assert pack_key(SOLO) == pack_key(other)


def test_adapters_that_see_other_batches_do_not_share_a_pack() -> None:
    for other in (
        replace(SOLO, data=DataConfig(batch_size=4)),
        replace(SOLO, trainer=TrainerConfig(accumulate=2)),
        replace(SOLO, trainer=TrainerConfig(max_epochs=2)),
        replace(SOLO, optim=OptimConfig(loss_average="token")),
        replace(SOLO, model=ModelConfig(dtype="float32")),
        replace(SOLO, seed=2),
    ):
        assert pack_key(SOLO) != pack_key(other)


def test_seeds_share_a_pack_when_they_need_not_see_the_same_batches() -> None:
    assert pack_key(SOLO, same_data=False) == pack_key(replace(SOLO, seed=2), same_data=False)


def test_what_the_dispatch_does_not_know_trains_alone() -> None:
    dora = replace(SOLO, lora=LoraConfig(use_dora=True))
    sharded = replace(SOLO, trainer=TrainerConfig(strategy="fsdp", devices=2))
    packs = pack_units(units(SOLO, dora, SOLO, sharded, sharded), same_data=True)
    assert keys(packs) == [["a0", "a2"], ["a1"], ["a3"], ["a4"]]


def test_one_slot_gets_one_task_for_each_base() -> None:
    float32 = replace(SOLO, model=ModelConfig(dtype="float32"))
    base = Unit(BASE, [SOLO])
    found = [base, *units(SOLO, float32, replace(SOLO, seed=2))]
    tasks = make_tasks(found, {"a0", "a1", "a2"}, TEMPLATE, slots=1)
    assert keys([task.units for task in tasks]) == [[BASE, "a0", "a2"], ["a1"]]
    assert [task.number for task in tasks] == [0, 1]


def test_slots_share_the_packs() -> None:
    found = [Unit(BASE, [SOLO]), *units(*[SOLO] * 6)]
    untrained = {unit.key for unit in found[1:]}
    tasks = make_tasks(found, untrained, TEMPLATE, slots=2)
    assert keys([task.units for task in tasks]) == [["a0", "a1", "a2"], ["a3", "a4", "a5"], [BASE]]
    tasks = make_tasks(found, untrained, replace(TEMPLATE, pack_size=2), slots=2)
    assert [len(task.units) for task in tasks] == [2, 2, 2, 1]


def test_even_chunks_differ_by_one_at_most() -> None:
    assert even_chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert even_chunks([1], 2) == [[1]]
    assert even_chunks([], 2) == []


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
