"""A task's process, run inside this one: what it trains, decodes and stores, and the events that it sends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft import store
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.runtime.devices import out_of_memory
from kimi_audio_ft.runtime.signals import StopRequest
from kimi_audio_ft.sweep.events import (
    Decoding,
    Event,
    Failed,
    Fitting,
    Interrupted,
    Paused,
    Ready,
    Split,
    Step,
    Waiting,
)
from kimi_audio_ft.sweep.plan import Task, Unit
from kimi_audio_ft.sweep.worker import make_units, too_large
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


def unit_of(config: TrainConfig) -> Unit:
    return Unit(Trial(config).training_signature, [config])


def make(task: Task, should_stop: Callable[[], bool] = lambda: False) -> list[Event]:
    """All events of a task."""
    events: list[Event] = []
    make_units(task, events.append, should_stop)
    return events


@pytest.mark.parametrize(("asked_for", "given"), [(1, 1), (0, 3)])
def test_packs_are_trained_on_the_threads_they_were_given(trial_config: Config, asked_for: int, given: int) -> None:
    """Packs that train side by side with all cores each take twice the time; 0 leaves what PyTorch has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        unit = unit_of(trial_config(trainer={"max_steps": 1, "threads": asked_for}))
        make(Task(0, [unit]))
        made = store.find("adapter", unit.key)
        assert made is not None and store.read_meta(made)["environment"]["threads"] == given
    finally:
        torch.set_num_threads(before)


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
    assert isinstance(paused, Paused) and (paused.step, paused.val_rate) == (2, None) and paused.val_loss > 0
    assert store.find("adapter", unit.key) is None
    assert make(Task(0, [unit], pack_size=1))[-1] == Ready(unit.key)
    adapter = store.find("adapter", unit.key)
    assert adapter is not None and store.read_meta(adapter)["steps"] == 4


def test_a_stop_is_heard_while_a_rung_is_decoded(trial_config: Config) -> None:
    """With the step of the training's checkpoint; started again, the rung is decoded and nothing trained."""
    unit = unit_of(trial_config(trainer={"max_steps": 4}, decoding={"batch_size": 2}))
    task, asked = Task(0, [unit], pack_size=1, until=2, metric="cer"), iter(range(1, 99))
    # Asked before the pack, after each of two steps, and then after every batch.
    assert make(task, lambda: next(asked) == 4)[-1] == Interrupted(unit.key, 2)
    again = make(task)
    assert isinstance(again[-1], Paused) and again[-1].val_rate is not None
    assert not any(isinstance(event, Step) for event in again)


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_a_stop_is_heard_while_recordings_are_encoded(trial_config: Config, encoded: Path, seeds: list[int]) -> None:
    """To train, or already to find out which seeds' steps match."""
    manifest = str(encoded / "coded.jsonl")
    data = {"train_manifest": manifest, "eval_manifest": manifest, "allow_overlap": True, "features": "cached"}
    units = [unit_of(trial_config(data=data, seed=seed)) for seed in seeds]
    events: list[Event] = []

    def ask(event: Event) -> None:
        events.append(event)
        if isinstance(event, Fitting):
            signal.raise_signal(signal.SIGTERM)

    with StopRequest() as stop:
        if len(seeds) > 1:
            signal.raise_signal(signal.SIGTERM)
        make_units(Task(0, units, pack_size=len(units), same_data=False), ask, stop)
    assert [event for event in events if event.ends] == [Interrupted(unit.key) for unit in units]
    assert not len(Trial(units[0].config).base.encoders().store())


def test_recordings_are_encoded_before_the_ranks_of_a_pack_are_started(
    trial_config: Config, encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that stopped while another one encodes would leave that one waiting for it."""
    manifest = str(encoded / "coded.jsonl")
    data = {"train_manifest": manifest, "eval_manifest": manifest, "allow_overlap": True, "features": "cached"}
    unit = unit_of(trial_config(data=data, trainer={"strategy": "ddp", "devices": 2}))
    started: list[int] = []

    def refuse(*given: Any, **options: Any) -> None:
        started.append(len(Trial(unit.config).base.encoders().store()))
        raise UserError("no")

    monkeypatch.setattr("kimi_audio_ft.sweep.packs.run_workers", refuse)
    make(Task(0, [unit], pack_size=1))
    assert started == [8]


def test_a_task_that_is_asked_to_stop_interrupts_every_unit(trial_config: Config) -> None:
    unit = unit_of(trial_config())
    events = make(Task(0, [Unit(BASE, unit.jobs), unit]), should_stop=lambda: True)
    assert events == [Interrupted(BASE), Interrupted(unit.key)]


def test_a_pack_that_breaks_is_left_to_new_processes(trial_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [unit_of(trial_config(lora={"r": rank})) for rank in (2, 4, 8)]

    def lack_memory(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("kimi_audio_ft.training.fit.fit_adapters", lack_memory)
    events = make(Task(0, units, pack_size=2))
    assert events[-1] == Split([unit.key for unit in units[:2]], "OutOfMemoryError: CUDA out of memory", memory=True)
    [_fitting, failed, split] = make(Task(0, units[:1]))
    assert isinstance(failed, Failed) and failed.failure.user and failed.failure.message.startswith("lora.r=2: out of")
    assert split == Split([], "OutOfMemoryError: CUDA out of memory", memory=True)
    assert not list(store.product_path("adapter", units[0].key).parent.glob(".*.draft"))


def test_each_kind_of_training_has_a_pack_size_of_its_own(
    trial_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probed(trials: Sequence[Trial], dispatch: str, ranks: int) -> int:
        return 2 if trials[0].config.data.batch_size == 2 else 1

    def refuse(*arguments: Any, **options: Any) -> None:
        raise UserError("no")

    monkeypatch.setattr("kimi_audio_ft.sweep.pack_size.probed_pack_size", probed)
    monkeypatch.setattr("kimi_audio_ft.training.fit.fit_adapters", refuse)
    kinds = [(size, rank) for size in (2, 4) for rank in (2, 4)]
    units = [unit_of(trial_config(data={"batch_size": size}, lora={"r": rank})) for size, rank in kinds]
    assert [event.pack for event in make(Task(0, units)) if isinstance(event, Fitting)] == [2, 2, 1, 1]


def test_data_edited_while_a_sweep_runs_make_no_adapter(trial_config: Config, tmp_path: Path) -> None:
    manifest = tmp_path / "train.jsonl"
    manifest.write_bytes(Path(trial_config().data.train_manifest).read_bytes())
    config = trial_config(data={"train_manifest": str(manifest)}, trainer={"max_steps": 2})
    unit = unit_of(config)
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text("".join(lines[:12]), encoding="utf-8")
    failed = make(Task(0, [unit]))[-1]
    assert isinstance(failed, Failed) and failed.failure.user
    assert "changed while the sweep ran" in failed.failure.message and str(manifest) in failed.failure.message
    assert store.find("adapter", unit.key) is None


@pytest.mark.parametrize("end", ["complete", "paused", "stopped"])
def test_data_edited_while_an_adapter_trains_leave_nothing(
    trial_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Neither the adapter nor a checkpoint, from which a start with the unedited data would go on."""
    monkeypatch.setattr("kimi_audio_ft.training.callbacks.REPORT_SECONDS", 0.0)
    manifest = tmp_path / "train.jsonl"
    content = Path(trial_config().data.train_manifest).read_text(encoding="utf-8")
    manifest.write_text(content, encoding="utf-8")
    unit = unit_of(trial_config(data={"train_manifest": str(manifest)}, trainer={"max_steps": 2}))
    events: list[Event] = []

    def edit(event: Event) -> None:
        events.append(event)
        if isinstance(event, Step) and event.step == (2 if end == "complete" else 1):
            draft = tmp_path / "draft"
            draft.write_text("".join(content.splitlines(keepends=True)[:12]), encoding="utf-8")
            draft.replace(manifest)

    until = 1 if end == "paused" else None
    make_units(
        Task(0, [unit], until=until, metric="loss"), edit,
        lambda: end == "stopped" and any(isinstance(event, Step) for event in events),
    )  # fmt: skip
    assert isinstance(events[-1], Failed) and "changed while" in events[-1].failure.message
    assert store.find("adapter", unit.key) is None and not store.work_folder("adapter", unit.key).exists()


def test_an_adapter_that_another_process_makes_is_waited_for(trial_config: Config) -> None:
    unit = unit_of(trial_config(trainer={"max_steps": 2}))
    events: list[Event] = []
    held = ExitStack()
    held.enter_context(store.lock("adapter", unit.key))

    def let_go(event: Event) -> None:
        events.append(event)
        if isinstance(event, Waiting):
            held.close()

    make_units(Task(0, [unit]), let_go, lambda: False)
    assert events[0] == Waiting(unit.key) and events[-1] == Ready(unit.key)
    held.enter_context(store.lock("adapter", unit.key))  # nobody holds it any longer


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
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
