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


def test_a_trial_is_as_far_as_its_unit_until_it_has_run(state: SweepState, tell: Tell) -> None:
    assert state.counts() == {"reused": 4, "waiting": 32}
    tell("fitting", "a1", pack=2)
    tell("waiting", "a3")
    tell("failed", "a2", **FAILURE)
    assert state.counts() == {"reused": 4, "fitting": 4, "elsewhere": 4, "failed": 4, "waiting": 20}
    assert state.units["a2"].reason == "optim.lr=1: loss is nan"
    tell("decoding", "a1", done=3, total=12)
    tell("ready", "a1", fitted=True)
    state.finish_job(4, 0.25, None, reused=False)
    state.finish_job(5, None, "disk is full\nlong story", reused=False)
    assert state.jobs[4].shown == "done" and state.jobs[4].cer == 0.25
    assert state.jobs[5].shown == "failed" and state.jobs[5].reason == "disk is full"
    assert state.jobs[6].shown == "ready"


def test_pack_membership(state: SweepState, tell: Tell) -> None:
    for unit in ("a1", "a2", "a3"):
        tell("fitting", unit, pack=3)
    tell("fitting", "a4", pack=1)
    for unit in ("a5", "a6"):
        tell("fitting", unit, pack=2)
    assert [state.units[f"a{n}"].pack for n in range(1, 7)] == [1, 1, 1, 2, 3, 3]
    tell("split", None, units=["a5", "a6"], reason="out of memory")
    assert state.units["a5"].pack is None and state.units["a5"].phase == "waiting"
    for unit in ("a5", "a6"):
        tell("fitting", unit, pack=1)
    assert [state.units[key].pack for key in ("a5", "a6")] == [4, 5]


def test_packs_of_tasks_that_run_at_the_same_time_are_told_apart(state: SweepState, tell: Tell) -> None:
    for unit, task in (("a1", 0), ("a2", 1), ("a3", 0), ("a4", 1)):
        tell("fitting", unit, pack=2, task=task)
    assert [state.units[f"a{n}"].pack for n in range(1, 5)] == [1, 2, 1, 2]


def test_a_split_leaves_what_is_ready_alone(state: SweepState, tell: Tell) -> None:
    tell("ready", "a1", fitted=True)
    tell("split", None, units=["a1", "a2"], reason="died")
    assert state.units["a1"].phase == "ready" and state.units["a2"].phase == "waiting"


def test_events_of_a_unit_without_trials_are_not_shown(state: SweepState, tell: Tell) -> None:
    before = state.counts()
    tell("decoding", "base", done=1, total=2)
    assert state.counts() == before


def test_time_left_is_told_only_when_it_is_known(state: SweepState, tell: Tell, clock: Any) -> None:
    assert state.seconds_left() is None and state.seconds_left_to_fit() is None
    pack = ["a1", "a2"]
    for unit in pack:
        tell("fitting", unit, pack=2)
    fit(tell, clock, pack, 1, 2)
    assert state.seconds_left_to_fit() is None  # two steps say nothing
    fit(tell, clock, pack, 3, 10)
    # two adapters took 9 seconds for 18 steps; 2 x 10 steps and 6 x 20 of waiting units remain
    assert state.seconds_left_to_fit() == pytest.approx(140 * 9 / 18)
    assert state.seconds_left() is None  # nobody knows how fast decoding will be
    fit(tell, clock, pack, 11, 20)
    decode(tell, clock, "a1", [0, 40, 80], 80)
    tell("ready", "a1", fitted=True)
    assert state.units["a2"].phase == "fitted"  # and so takes no time while its neighbour is decoded
    assert state.seconds_left() == pytest.approx(120 * 19 / 38 + 7 * 80 * 3 / 80)
    assert state.rates.fitting_seconds == 20


def test_nothing_is_left_when_all_is_made(state: SweepState, tell: Tell) -> None:
    for number in range(1, 9):
        tell("ready", f"a{number}", fitted=False)
    assert state.seconds_left() == 0 and state.seconds_left_to_fit() is None


def test_steps_of_an_earlier_process_are_not_counted_as_speed(state: SweepState, tell: Tell, clock: Any) -> None:
    tell("fitting", "a1", pack=1)
    clock.now += 60  # loading the base
    tell("step", "a1", step=16, steps=20, loss=1.0, tokens_per_second=1.0)
    assert state.seconds_left_to_fit() is None


def test_training_time_is_counted_once_for_a_pack(state: SweepState, tell: Tell, clock: Any) -> None:
    for unit in ("a1", "a2"):
        tell("fitting", unit, pack=2)
    fit(tell, clock, ["a1", "a2"], 1, 10)
    tell("ready", "a1", fitted=True)
    tell("ready", "a2", fitted=True)
    clock.now += 50
    tell("waiting", "a3")
    assert state.rates.fitting_seconds == 10
