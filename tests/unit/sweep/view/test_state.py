"""What is known about a sweep after its events, and what is not claimed to be known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kimi_audio_ft.sweep.view.state import SweepState

Tell = Callable[..., None]
FAILURE = {"error_type": "TrainingFailed", "message": "optim.lr=1: loss is nan\nmore", "user": True, "traceback": ""}


def fit(tell: Tell, clock: Any, units: list[str], first: int, last: int, each: float = 1.0) -> None:
    """Steps of a pack, each so many seconds."""
    for step in range(first, last + 1):
        clock.now += each
        for unit in units:
            tell("step", unit, step=step, steps=20, loss=2.0 / step, tokens_per_second=500.0)


def decode(tell: Tell, clock: Any, unit: str, numbers: list[int], total: int) -> None:
    for done in numbers:
        tell("decoding", unit, done=done, total=total)
        clock.now += 1


def phases(state: SweepState) -> str:
    return " ".join(row.phase for row in state.rows.values())


def test_a_row_is_as_far_as_its_unit(state: SweepState, tell: Tell) -> None:
    assert phases(state) == "stored" + 8 * " waiting"
    tell("fitting", "a1", pack=2)
    tell("waiting", "a3")
    tell("failed", "a2", **FAILURE)
    tell("paused", "a4", step=7, val_loss=0.5)
    tell("interrupted", "a5", step=None)
    assert phases(state) == "stored fitting failed in another process stopped stopped waiting waiting waiting"
    assert state.failed == {8, 9, 10, 11}
    found = [state.rows[f"a{number}"].status for number in (2, 4, 5)]
    assert found == ["failed: optim.lr=1: loss is nan", "stopped at step 7", "stopped"]
    tell("decoding", "a1", done=3, total=12)
    assert state.rows["a1"].status == "decoding 3/12"
    tell("ready", "a1", fitted=True)
    assert state.rows["a1"].status == "done"


def test_trials_score_or_fail_one_by_one(state: SweepState, tell: Tell) -> None:
    tell("ready", "a1", fitted=True)
    state.finish_job(4, 0.25, None)
    state.finish_job(5, None, "disk is full\nlong story")
    state.finish_job(6, 0.125, None)
    assert (state.scored, state.failed, state.rows["a1"].rates) == ({4, 6}, {5}, [0.25, 0.125])
    assert state.rows["a1"].status == "failed: disk is full"
    tell("failed", "a2", **FAILURE)
    state.finish_job(8, None, "loss is nan, says the trial")
    assert state.rows["a2"].status == "failed: optim.lr=1: loss is nan"


def test_pack_membership(state: SweepState, tell: Tell, clock: Any) -> None:
    for unit in ("a1", "a2", "a3"):
        tell("fitting", unit, pack=3)
    fit(tell, clock, ["a1", "a2", "a3"], 1, 2)
    tell("fitting", "a4", pack=1)
    tell("ready", "a4", fitted=True)
    for unit in ("a5", "a6"):
        tell("fitting", unit, pack=2)
    assert [state.rows[f"a{n}"].pack for n in range(1, 7)] == [1, 1, 1, 2, 3, 3]
    tell("split", None, units=["a5", "a6", "base"], reason="out of memory")
    assert state.rows["a5"].pack is None and state.rows["a5"].phase == "waiting"
    for unit in ("a5", "a6"):
        tell("fitting", unit, pack=1)
        tell("step", unit, step=1, steps=20, loss=1.0, tokens_per_second=1.0)
    assert [state.rows[key].pack for key in ("a5", "a6")] == [4, 5]


def test_packs_of_tasks_that_run_at_the_same_time_are_told_apart(state: SweepState, tell: Tell) -> None:
    for unit, task in (("a1", 0), ("a2", 1), ("a3", 0), ("a4", 1)):
        tell("fitting", unit, pack=2, task=task)
    assert [state.rows[f"a{n}"].pack for n in range(1, 5)] == [1, 2, 1, 2]


def test_events_of_a_unit_without_trials_are_not_shown(state: SweepState, tell: Tell) -> None:
    before = phases(state)
    tell("decoding", "base", done=1, total=2)
    assert phases(state) == before


def test_time_left_is_told_only_when_it_is_known(state: SweepState, tell: Tell, clock: Any) -> None:
    assert state.seconds_left("fitting") is None and state.seconds_left("decoding") is None
    pack = ["a1", "a2"]
    for unit in pack:
        tell("fitting", unit, pack=2)
    fit(tell, clock, pack, 1, 1)
    assert state.seconds_left("fitting") is None  # nobody knows since when the first step was being made
    fit(tell, clock, pack, 2, 10)
    # two adapters took 9 seconds for 18 steps; 2 x 10 steps and 6 x 20 of waiting units remain
    assert state.seconds_left("fitting") == pytest.approx(140 * 9 / 18)
    assert state.seconds_left("decoding") is None  # nobody knows how fast it will be
    fit(tell, clock, pack, 11, 20)
    clock.now += 1
    decode(tell, clock, "a1", [0, 40, 80], 80)
    tell("ready", "a1", fitted=True)
    assert state.rows["a2"].phase == "fitted"  # and so takes no time while its neighbour is decoded
    assert state.seconds_left("fitting") == pytest.approx(120 * 19 / 38)
    assert state.seconds_left("decoding") == pytest.approx(7 * 80 * 3 / 80)
    assert state.fitting_seconds == 20


def test_nothing_is_left_when_all_is_made(state: SweepState, tell: Tell, clock: Any) -> None:
    tell("fitting", "a1", pack=1)
    fit(tell, clock, ["a1"], 1, 20)
    for number in range(1, 9):
        decode(tell, clock, f"a{number}", [0, 40, 80], 80)
        tell("ready", f"a{number}", fitted=False)
    assert state.seconds_left("fitting") is None and state.seconds_left("decoding") is None


def test_steps_of_an_earlier_process_are_not_counted_as_speed(state: SweepState, tell: Tell, clock: Any) -> None:
    tell("fitting", "a1", pack=1)
    clock.now += 60  # loading the base
    tell("step", "a1", step=16, steps=20, loss=1.0, tokens_per_second=1.0)
    assert state.seconds_left("fitting") is None
    tell("fitting", "a1", pack=1)  # it died and begins anew
    fit(tell, clock, ["a1"], 1, 4)
    assert state.seconds_left("fitting") == pytest.approx(16 + 7 * 20)


def test_training_time_is_counted_once_for_a_pack(state: SweepState, tell: Tell, clock: Any) -> None:
    for unit in ("a1", "a2"):
        tell("fitting", unit, pack=2)
    fit(tell, clock, ["a1", "a2"], 1, 10)
    tell("ready", "a1", fitted=True)
    tell("ready", "a2", fitted=True)
    clock.now += 50
    tell("waiting", "a3")
    assert state.fitting_seconds == 10
