"""A training in pieces, in changing company, is the training in one go, as exactly as packs promise."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.training import checkpoint
from kimi_audio_ft.training.checkpoint import group_by_resume, resume_step
from kimi_audio_ft.training.ending import TrainingFailed
from tests.numerics.pack_lab import NAMES, Lab
from tests.sameness import assert_same, assert_same_bits

Config = Callable[..., TrainConfig]
DROPOUT = {name: {"lora": {"lora_dropout": 0.2}} for name in NAMES}
# Four steps an epoch, each of two conversations one by one; the last step is the second epoch's third.
DATA = {"batch_size": 1, "train_subset": 8}
TRAINER = {"max_steps": 7, "log_every": 3, "save_every": 3, "accumulate": 2}


@pytest.fixture
def config(trial_config: Config) -> TrainConfig:
    return trial_config(data=DATA, trainer=TRAINER)


def after(step: int) -> Callable[[], bool]:
    """Asks to stop at the end of the so-manieth step that it is asked about."""
    calls = iter(range(1, 1000))
    return lambda: next(calls) == step


def works(lab: Lab, names: Sequence[str]) -> list[Path]:
    return [lab.place / "pack" / f"{name}.work" for name in names]


def test_stopped_and_started_again_in_other_company(config: TrainConfig, lab: Lab) -> None:
    """A pack of two, then each with another one or alone, then all three."""
    with pytest.raises(Interrupted) as stop:
        lab.run(config, ["a4", "a8"], DROPOUT, should_stop=after(2))
    assert stop.value.step == 2 and isinstance(stop.value, KeyboardInterrupt)
    assert resume_step(works(lab, ["a4", "a8"])) == 2
    with pytest.raises(Interrupted):  # alone, from a pack's checkpoint
        lab.run(config, ["a4"], DROPOUT, should_stop=after(3))
    with pytest.raises(Interrupted):  # a pack's member and a new one, from the start
        lab.run(config, ["a16"], DROPOUT, should_stop=after(5))
    assert [resume_step([work]) for work in works(lab, NAMES)] == [5, 2, 5]
    assert resume_step(works(lab, NAMES)) == 0, "of no step do all have a checkpoint"
    groups = group_by_resume(dict(zip(NAMES, works(lab, NAMES), strict=True)))
    assert sorted(map(sorted, groups)) == [["a16", "a4"], ["a8"]]
    lab.run(config, ["a4", "a16"], DROPOUT)
    lab.run(config, ["a8"], DROPOUT)
    for name in NAMES:
        assert_same(lab.folder(name), lab.alone(config, name, DROPOUT))


def test_asked_to_stop_at_the_last_step(config: TrainConfig, lab: Lab) -> None:
    """There is nothing left to interrupt."""
    results = lab.run(config, ["a4"], DROPOUT, should_stop=after(7))
    assert results["a4"]["steps"] == 7


def test_paused_and_continued(config: TrainConfig, lab: Lab) -> None:
    """At a rung within an epoch, at its end, again at the same one, and on; what a rung measures leaves no trace."""
    rows: list[tuple[str, dict[str, Any]]] = []
    for until in (2, 2, 4):
        results = lab.run(config, NAMES, DROPOUT, until=until)
        for name in NAMES:
            assert results[name]["paused"]["step"] == until
            assert not lab.folder(name).exists()
            assert (lab.place / "pack" / f"{name}.work" / f"step={until:08d}").is_dir()
        losses = {name: results[name]["paused"]["val_loss"] for name in NAMES}
        if until == 2:
            first = losses
    assert len(set(first.values())) == 3 and first != losses
    lab.run(config, ["a4", "a8"], DROPOUT, until=99, on_row=lambda name, row: rows.append((name, row)))
    lab.run(config, ["a16"], DROPOUT)
    for name in NAMES:
        assert_same(lab.folder(name), lab.alone(config, name, DROPOUT))
        curve = read_jsonl(lab.folder(name) / "curves.jsonl")
        assert [row["step"] for row in curve if row["split"] == "val"] == [4, 7]
        assert losses[name] == next(row["loss"] for row in curve if row["split"] == "val")
        if name != "a16":
            assert [row for owner, row in rows if owner == name] == curve, "earlier rows are seen again"


def test_paused_at_the_ends_of_epochs_of_one_step(trial_config: Config, lab: Lab) -> None:
    """A learning rate that ends above zero shows every step too much."""
    config = trial_config(trainer={"max_epochs": 3, "accumulate": 8})
    for until in (1, 2):
        assert lab.run(config, ["a16"], DROPOUT, until=until)["a16"]["paused"]["step"] == until
    assert lab.run(config, ["a16"], DROPOUT)["a16"]["steps"] == 3
    assert_same_bits(lab.folder("a16"), lab.alone(config, "a16", DROPOUT))


def test_until_goes_back_to_no_later_checkpoint(config: TrainConfig, lab: Lab) -> None:
    with pytest.raises(Interrupted):
        lab.run(config, ["a4"], DROPOUT, should_stop=after(5))
    assert lab.run(config, ["a4"], DROPOUT, until=4)["a4"]["paused"]["step"] == 4


def test_killed_between_two_members_checkpoints(config: TrainConfig, lab: Lab, caplog: Any) -> None:
    """One has a newer one, another's newest is damaged: all go on from the newest that each of them can read."""
    with pytest.raises(Interrupted):
        lab.run(config, NAMES, DROPOUT, should_stop=after(4))
    a4, a8, _ = works(lab, NAMES)
    shutil.rmtree(a4 / "step=00000004")
    (a8 / "step=00000004" / "state.safetensors").write_bytes(b"torn")
    assert resume_step(works(lab, ["a8", "a16"])) == 3
    assert "ignored, cannot be read" in caplog.text
    assert group_by_resume(dict(zip(NAMES, works(lab, NAMES), strict=True))) == [list(NAMES)]
    lab.run(config, NAMES, DROPOUT)
    for name in NAMES:
        assert_same(lab.folder(name), lab.alone(config, name, DROPOUT))


def test_older_checkpoints_go_when_all_have_the_new_one(config: TrainConfig, lab: Lab, monkeypatch: Any) -> None:
    """A kill between the members' writes leaves them a common one, also where only one is kept."""
    config.trainer.save_keep, config.trainer.save_every = 1, 2
    save, places = checkpoint.write_checkpoint, []

    class Killed(BaseException):
        pass

    def save_or_die(state: dict[str, Any], folder: Path, adapter_config: str) -> None:
        if len(places) == 3:
            raise Killed
        places.append(folder)
        save(state, folder, adapter_config)

    monkeypatch.setattr(checkpoint, "write_checkpoint", save_or_die)
    with pytest.raises(Killed):
        lab.run(config, ["a4", "a8"], DROPOUT)
    assert [place.name for place in places] == ["step=00000002", "step=00000002", "step=00000004"]
    assert resume_step(works(lab, ["a4", "a8"])) == 2
    monkeypatch.undo()
    # Alone and further on, then back in the pack: its later checkpoint does not push out the pack's own.
    with pytest.raises(Interrupted):
        lab.run(config, ["a4"], DROPOUT, should_stop=after(2))
    assert resume_step(works(lab, ["a4"])) == 6
    with pytest.raises(Interrupted):  # from the start: the last common one is gone
        lab.run(config, ["a4", "a8"], DROPOUT, should_stop=after(2))
    assert resume_step(works(lab, ["a4", "a8"])) == 2


def test_resumed_after_a_neighbour_has_failed(config: TrainConfig, lab: Lab) -> None:
    changes = {**DROPOUT, "a8": {"optim": {"lr": 1e30}}}
    with pytest.raises(Interrupted):
        lab.run(config, NAMES, changes, should_stop=after(4))
    assert resume_step(works(lab, ["a4", "a16"])) == 4
    assert isinstance(lab.run(config, ["a8"], changes)["a8"], TrainingFailed)
    lab.run(config, ["a4", "a16"], changes)
    for name in ("a4", "a16"):
        assert_same(lab.folder(name), lab.alone(config, name, DROPOUT))
