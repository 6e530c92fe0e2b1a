"""Candidates of a grid, the steps of rungs, decisions at a rung, and all rungs over a launcher that trains nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from kimi_audio_ft.config.launcher import HalvingConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.sweep.halving import (
    Candidate,
    Decision,
    Fate,
    RungResult,
    decide,
    make_candidates,
    merged,
    rung_steps,
)
from tests.unit.sweep.rates import Rates, fates_of, run_grid

GOES, STOPS, FAILS, PASSES = Fate.CONTINUED, Fate.STOPPED, Fate.FAILED, Fate.PASSED


def result(score: float | None, error: str | None = None, complete: bool = False) -> RungResult:
    return RungResult("a1", 30, score, error, complete)


def fates(*results: RungResult, factor: float = 2.0) -> list[Fate]:
    return [decision.fate for decision in decide(results, factor, "cer")]


def scored(*scores: float, factor: float = 2.0) -> list[Fate]:
    return fates(*map(result, scores), factor=factor)


@pytest.mark.parametrize(
    ("scores", "factor", "expected"),
    [
        ([0.4, 0.1, 0.3, 0.2], 2.0, [STOPS, GOES, STOPS, GOES]),
        ([0.4, 0.1, 0.3], 2.0, [STOPS, GOES, GOES]),  # half of three, rounded up
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 3.0, [STOPS] * 6 + [GOES] * 3),
        ([0.5, 0.1], 100.0, [STOPS, GOES]),  # never nobody
        ([0.5, 0.1], 1.5, [GOES, GOES]),
    ],
)
def test_best_part_goes_on(scores: list[float], factor: float, expected: list[Fate]) -> None:
    assert scored(*scores, factor=factor) == expected


def test_tie_at_the_border_keeps_both_and_a_tie_below_it_neither() -> None:
    assert scored(0.1, 0.2, 0.2, 0.9) == [GOES, GOES, GOES, STOPS]
    assert scored(0.1, 0.2, 0.9, 0.9) == [GOES, GOES, STOPS, STOPS]
    assert scored(1.0, 1.0, 1.0, 1.0) == [GOES] * 4


def test_equal_scores_share_a_rank_and_the_reason_has_the_numbers() -> None:
    decisions = decide([result(0.2), result(0.1), result(0.2), result(0.75)], 4.0, "cer")
    assert [decision.rank for decision in decisions] == [2, 1, 2, 4]
    assert decisions[3].reason == "rank 4 of 4 at step 30: CER 75.00 %; the best 1 continue, down to CER 10.00 %"
    by_mer = [replace(result(score), rank_by="mer") for score in (0.2, 0.1)]
    assert decide(by_mer, 2.0, "cer")[1].reason == "rank 1 of 2 at step 30: MER 10.00 %"
    assert "loss 0.7500" in decide([result(0.75)], 2.0, "loss")[0].reason


def test_failure_costs_only_itself() -> None:
    broken = result(None, error="loss is nan at step 12")
    assert fates(result(0.4), broken, result(0.3), broken) == [GOES, FAILS, GOES, FAILS]
    assert fates(broken, result(0.4), result(0.3), result(0.2)) == [FAILS, STOPS, GOES, GOES]
    assert decide([broken], 2.0, "cer")[0] == Decision(FAILS, None, "loss is nan at step 12")


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_score_that_is_no_number_is_a_failure(score: float) -> None:
    assert fates(result(score), result(0.4)) == [FAILS, GOES]
    assert "its loss at step 30 is" in decide([result(score)], 2.0, "loss")[0].reason


def test_finished_adapter_is_compared_where_it_can_be() -> None:
    known = [result(0.9, complete=True), result(0.1), result(0.2), result(0.3, complete=True)]
    assert fates(*known) == [STOPS, GOES, GOES, STOPS]


def test_finished_adapter_without_a_score_takes_no_place() -> None:
    finished = result(None, complete=True)
    assert fates(finished, result(0.1), result(0.2), result(0.3)) == [PASSES, GOES, GOES, STOPS]
    assert fates(finished, finished) == [PASSES, PASSES]


def test_result_without_score_error_or_adapter_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="neither"):
        fates(result(None))


GRID = [
    [f"lora.r={rank}", f"optim.lr={rate}", f"decoding.text_temperature={temperature}", "data.num_workers=0"]
    for rank, rate, temperature in product((2, 8), ("1e-3", "4e-3"), (0.0, 0.3, 0.6))
]


def test_jobs_that_differ_in_decoding_are_one_candidate() -> None:
    candidates = make_candidates(GRID, None, 1)
    assert [candidate.name for candidate in candidates] == [f"r={r} lr={lr}" for r in (2, 8) for lr in ("1e-3", "4e-3")]
    assert [list(candidate.jobs) for candidate in candidates] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert candidates[1].overrides == GRID[3]


@pytest.mark.parametrize("item", ["decoding=greedy", "+decoding.text_top_k=3", "logger=none", "baseline=false"])
def test_what_an_adapter_does_not_depend_on(item: str) -> None:
    assert len(make_candidates([["lora.r=2"], ["lora.r=2", item]], None, 1)) == 1


def test_what_an_adapter_may_depend_on() -> None:
    for item in ("data.train_manifest=x", "seed=2", "lora=attention", "+trainer.max_steps=3"):
        assert len(make_candidates([["lora.r=2"], ["lora.r=2", item]], None, 1)) == 2


def test_grid_of_one() -> None:
    [candidate] = make_candidates([[]], None, 1)
    assert candidate.jobs == {0: []} and candidate.is_alive


def test_draw_is_seeded_in_the_grids_order_and_grows() -> None:
    grid = [[f"lora.r={rank}", f"decoding.text_temperature={t}"] for rank in range(1, 41) for t in (0, 1)]

    def drawn(count: int | None, seed: int = 1) -> list[int]:
        return [place for candidate in make_candidates(grid, count, seed) for place in candidate.jobs]

    assert drawn(5) == drawn(5) == sorted(drawn(5)) and len(drawn(5)) == 10
    assert set(drawn(5)) < set(drawn(9)) < set(drawn(None))
    assert drawn(5) != drawn(5, seed=2)
    assert drawn(40) == drawn(99) == drawn(None) == list(range(80))


def test_same_adapter_written_differently_is_one_candidate() -> None:
    one, other, third = (Candidate(name, {place: [name]}, name[0]) for place, name in enumerate(("a1", "b", "a2")))
    kept = merged([one, other, third])
    assert kept == [one, other]
    assert one.jobs == {0: ["a1"], 2: ["a2"]}


def test_candidates_without_a_valid_config_stay_apart() -> None:
    assert len(merged([Candidate("x", {0: []}), Candidate("y", {1: []})])) == 2


def test_rungs_are_steps_or_fractions() -> None:
    assert rung_steps((0.25, 0.5), 120, "r=2") == [30, 60]
    assert rung_steps((10, 0.5), 120, "r=2") == [10, 60]
    assert rung_steps((0.01,), 10, "r=2") == [1]


@pytest.mark.parametrize(
    ("rungs", "num_steps", "message"),
    [
        ((0.25, 0.3), 4, r"must rise, and come to steps \[1, 1\] of the 4 that r=2 trains"),
        ((60, 30), 120, r"must rise, and come to steps \[60, 30\]"),
        ((120,), 120, "must end before the training, and r=2 trains for 120 steps only"),
        ((0.9,), 1, "r=2 trains for 1 steps only"),
    ],
)
def test_rungs_outside_the_training(rungs: tuple[float, ...], num_steps: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rung_steps(rungs, num_steps, "r=2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rungs": []}, r"hydra.sweeper.rungs=\[\]: needs at least one"),
        ({"rungs": [1.0]}, "hydra.sweeper.rungs=1.0: a rung is"),
        ({"rungs": [0.5, 0]}, "hydra.sweeper.rungs=0: a rung is"),
        ({"rungs": [True]}, "hydra.sweeper.rungs=True: a rung is"),
        ({"rungs": ["half"]}, "hydra.sweeper.rungs='half': a rung is"),
        ({"reduction_factor": 1.0}, "hydra.sweeper.reduction_factor=1.0: must be greater than 1"),
        ({"reduction_factor": math.nan}, "hydra.sweeper.reduction_factor=nan"),
        ({"metric": "wer"}, "hydra.sweeper.metric='wer': must be one of cer, loss"),
        ({"max_candidates": 0}, "hydra.sweeper.max_candidates=0: must be 1 or more"),
    ],
)
def test_options_are_checked(change: dict[str, Any], message: str) -> None:
    HalvingConfig()
    with pytest.raises(ConfigError, match=message):
        HalvingConfig(**change)


def test_best_go_on_from_rung_to_rung() -> None:
    trainer = Rates()
    done = run_grid(trainer, "1", "2", "3", "4", "5")
    assert [(step, len(jobs)) for step, jobs in trainer.asked] == [(10, 5), (20, 3)]
    assert trainer.asked[1][1] == [f"optim.lr={rate} decoding.text_temperature=0.0" for rate in "345"]
    assert {rate: fates_of(one) for rate, one in done.items()} == {
        "1": ["stopped"],
        "2": ["stopped"],
        "3": ["continued", "stopped"],
        "4": ["continued", "continued"],
        "5": ["continued", "continued"],
    }
    assert [rate for rate, one in done.items() if one.is_alive] == ["4", "5"]
    assert done["5"].results[1] == RungResult("a5.0", 20, 0.01, None, False)


def test_one_that_is_left_alone_trains_straight_to_its_end() -> None:
    trainer = Rates()
    assert run_grid(trainer, "7")["7"].is_alive
    assert trainer.asked == []
    assert [one.is_alive for one in run_grid(trainer, "1", "2").values()] == [False, True]
    assert [step for step, _ in trainer.asked] == [10]


def test_failed_ones_are_out_with_their_reason() -> None:
    done = run_grid(Rates(), "0", "-1", "1", "2")
    assert fates_of(done["0"]) == fates_of(done["-1"]) == ["failed"]
    assert done["0"].decisions[0].reason == "loss is nan\nat step 3"
    assert "must be positive" in done["-1"].decisions[0].reason
    assert fates_of(done["1"]) == ["continued", "stopped"]


def test_all_failed_is_an_error_with_every_reason() -> None:
    with pytest.raises(
        UserError, match=r"all 2 adapters failed before step(.|\n)*loss is nan\n(.|\n)*must be positive"
    ):
        run_grid(Rates(), "0", "-1")


def test_trainings_of_different_length_are_judged_at_the_same_part() -> None:
    trainer = Rates(steps={2.0: 80})
    run_grid(trainer, "1", "2", "3", "4")
    assert [(step, len(jobs)) for step, jobs in trainer.asked] == [(10, 3), (20, 1), (20, 1), (40, 1)]


def test_rung_outside_a_training_stops_everything_before_it_begins() -> None:
    trainer = Rates(steps={2.0: 1})
    with pytest.raises(ConfigError, match="lr=2 trains"):
        run_grid(trainer, "1", "2")
    assert trainer.asked == []


def test_same_adapter_twice_competes_once_and_keeps_all_its_jobs() -> None:
    done = run_grid(Rates(), "1", "2", "2.0", "3")
    assert list(done) == ["1", "2", "3"]
    assert list(done["2"].jobs) == [2, 3, 4, 5]
    assert [one.is_alive for one in done.values()] == [False, False, True]
    assert fates_of(done["2"]) == ["continued", "stopped"]  # two of three continue after the first rung


def test_finished_ones_pass_and_a_rung_for_them_alone_is_left_out() -> None:
    trainer = Rates(finished={1.0, 2.0})
    done = run_grid(trainer, "1", "2", "3")
    assert fates_of(done["1"]) == fates_of(done["2"]) == ["passed"]
    assert [step for step, _ in trainer.asked] == [10]
    assert all(one.is_alive for one in done.values())


def test_fates_are_plain_words_in_json() -> None:
    assert json.dumps(Fate.STOPPED) == '"stopped"'
