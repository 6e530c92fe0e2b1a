"""A task's process, run inside this one: what it trains, decodes and stores, and the events that it sends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kimi_audio_ft import store
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.sweep.events import Decoding, Event, Failed, Fitting, Interrupted, Paused, Ready
from kimi_audio_ft.sweep.plan import Task, Unit
from kimi_audio_ft.sweep.worker import Worker, out_of_memory, too_large
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


def unit_of(config: TrainConfig) -> Unit:
    return Unit(Trial(config).training_signature, [config])


def make(task: Task, should_stop: Callable[[], bool] = lambda: False) -> list[Event]:
    """All events of a worker that trains every unit which the store lacks."""
    events: list[Event] = []
    untrained = {unit.key for unit in task.units if unit.key != BASE and store.find("adapter", unit.key) is None}
    Worker(0, events.append, task, should_stop).run(untrained, decoding=True)
    return events


def test_a_pack_is_trained_stored_and_decoded_and_a_failing_member_fails_alone(trial_config: Config) -> None:
    sound = unit_of(trial_config(trainer={"max_steps": 2}))
    exploding = unit_of(trial_config(trainer={"max_steps": 2}, optim={"lr": 1e30}))
    events = make(Task(3, [sound, exploding, Unit(BASE, sound.jobs)], pack_size=2))
    assert events[-1] == Ready(sound.key) and Ready(BASE) in events
    assert [event for event in events if isinstance(event, Fitting)] == [
        Fitting(sound.key, pack=2, task=3),
        Fitting(exploding.key, pack=2, task=3),
    ]
    [failed] = [event for event in events if isinstance(event, Failed)]
    assert failed.unit == exploding.key and failed.failure.error_type == "TrainingFailed" and failed.failure.user
    assert store.find("adapter", sound.key) is not None and store.find("adapter", exploding.key) is None
    decoded = [event for event in events if isinstance(event, Decoding) and event.unit == sound.key]
    assert decoded[-1].done == decoded[-1].total > 0
    again = make(Task(0, [sound]))
    assert again[-1] == Ready(sound.key) and not any(isinstance(event, Fitting) for event in again)


def test_a_training_pauses_at_its_rung_and_is_resumed_from_there(trial_config: Config) -> None:
    unit = unit_of(trial_config(trainer={"max_steps": 4}))
    paused = make(Task(0, [unit], pack_size=1, until=2, metric="loss"))[-1]
    assert isinstance(paused, Paused) and (paused.step, paused.val_cer) == (2, None) and paused.val_loss > 0
    assert store.find("adapter", unit.key) is None
    assert make(Task(0, [unit], pack_size=1))[-1] == Ready(unit.key)
    adapter = store.find("adapter", unit.key)
    assert adapter is not None and store.read_meta(adapter)["steps"] == 4


def test_a_task_that_is_asked_to_stop_interrupts_every_unit(trial_config: Config) -> None:
    unit = unit_of(trial_config())
    events = make(Task(0, [Unit(BASE, unit.jobs), unit]), should_stop=lambda: True)
    assert events == [Interrupted(BASE), Interrupted(unit.key)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("size mismatch"), False),
        (UserError("not enough memory"), False),
    ],
)
def test_errors_that_mean_too_little_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_an_adapter_that_does_not_fit_names_the_options_to_lower(trial_config: Config, tmp_path: Path) -> None:
    message = str(too_large(trial_config(lora={"r": 64}), MemoryError()))
    assert message.startswith("lora.r=64: out of memory, training this adapter by itself (MemoryError). Lower data.")
    assert "model.gradient_checkpointing=true" in message
