"""The whole of the statistics on synthetic sweeps, and what trials.json says of them."""

from __future__ import annotations

import json
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kimi_audio_ft.scoring.intervals import error_rate_interval
from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import ENGLISH
from multirun_analysis.statistics.results import Reason
from multirun_analysis.tables import trials_csv, trials_json
from multirun_analysis.words import conclusions
from tests.pace import pace
from tests.synthetic_errors import Planted
from tests.synthetic_sweep import write_ranks, write_sweep

NOW = datetime(2026, 1, 1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trials of 300 utterances; rank 8 makes 60 % more errors, rates and temperatures do not matter."""
    truth = Planted(factors={"lora.r": {8: 1.6}})
    folder = tmp_path_factory.mktemp("small") / "sweep"
    grid: dict[str, Any] = {"ranks": (8, 32), "rates": (5e-5, 1e-4), "temperatures": (0.0, 0.3)}
    return write_sweep(folder, **grid, utterances=300, recordings=30, planted=truth)


@pytest.fixture(scope="module")
def comparison(small: Path) -> Analysis:
    return load_sweep(small)


def document(comparison: Analysis) -> dict[str, Any]:
    return json.loads(trials_json(comparison, NOW))


def test_intervals_are_those_that_scoring_wrote(comparison: Analysis) -> None:
    for trial in comparison.sweep.finished:
        interval = comparison.statistics.intervals[trial]
        assert interval.low == pytest.approx(trial.record["cer_ci_low"], abs=1e-12)
        assert interval.high == pytest.approx(trial.record["cer_ci_high"], abs=1e-12)
        assert interval.low < trial.cer < interval.high
        if len(trial.repeats) == 1:
            names = ("normalised_edits", "normalised_chars", "recording")
            counts: Any = ([row[name] for row in trial.utterances] for name in names)
            normalised = comparison.statistics.normalised_intervals[trial]
            assert error_rate_interval(*counts) == pytest.approx((normalised.low, normalised.high), abs=1e-12)
    base = comparison.sweep.baselines[0]
    assert comparison.statistics.intervals[base].low == base.record["cer_ci_low"]


def test_the_planted_rank_is_found_and_the_lowest_of_it_taken(comparison: Analysis) -> None:
    found = comparison.statistics
    assert {trial.params["lora.r"] for trial in found.best_group} == {32}
    assert len(found.best_group) > 1 and found.recommended is found.choice is comparison.best.trial
    assert found.reason is Reason.LOWEST
    assert found.gain and found.gain.shown and found.gain.difference < -0.1
    assert len(found.pairs) == 36 and (found.recordings, found.utterances) == (30, 300)
    rank, rate, _ = found.effects
    assert [effect.method for effect in found.effects] == ["grid"] * 3
    at_8 = rank.values[0]
    means = [np.mean([t.cer for t in comparison.sweep.finished if t.params["lora.r"] == r]) for r in (8, 32)]
    assert at_8.count == 4 and at_8.effect == pytest.approx((means[0] - means[1]) / 2)
    assert at_8.interval and at_8.interval.low > 0
    assert all(v.interval and v.interval.low < 0 < v.interval.high for v in rate.values)


def test_overfitting_is_said_of_each_adapter_once(comparison: Analysis) -> None:
    kinds = {v.adapter.source.params["optim.lr"]: v for v in comparison.statistics.overfitting if v.kind == "turned"}
    assert len(comparison.statistics.overfitting) == 4
    assert list(kinds) == [1e-4] and kinds[1e-4].best_epoch == 3.0


def test_the_tables_have_the_statistics(comparison: Analysis) -> None:
    told, found = document(comparison), comparison.statistics
    statistics = told["statistics"]
    assert told["recommended"] == found.recommended.label and statistics["reason"] == found.reason.value
    assert statistics["recommended"] == found.recommended.name
    counts = {"resamples": 10_000, "recordings": 30, "utterances": 300, "alpha": 0.05, "family": 36}
    assert statistics["method"] == counts | {"randomisations": 4000, "margin": 0.03}
    by_name = {trial["name"]: trial for trial in told["trials"]}
    assert {name for name, trial in by_name.items() if trial["in_best_group"]} == set(statistics["best_group"])
    assert [name for name, trial in by_name.items() if trial["recommended"]] == [found.recommended.name]
    assert by_name["0"]["cer_ci_low"] == pytest.approx(found.intervals[comparison.sweep.trials[0]].low)
    pair = statistics["pairs"][0]
    cers = [by_name[pair[side]]["scores"]["cer"] for side in ("first", "second")]
    assert pair["difference"] == pytest.approx(cers[0] - cers[1], abs=1e-8)
    assert pair["low"] <= pair["difference"] <= pair["high"]
    assert told["baselines"][0]["in_best_group"] is None and told["baselines"][0]["recommended"] is False
    header = trials_csv(comparison).splitlines()[0].split(",")
    assert {"cer_ci_low", "cer_ci_high", "normalised_cer_ci_low", "in_best_group", "recommended"} <= set(header)


def test_reading_a_sweep_again_says_the_same(small: Path, comparison: Analysis) -> None:
    assert trials_json(load_sweep(small), NOW) == trials_json(comparison, NOW)


def test_too_few_recordings_are_said_and_nothing_is_claimed(tmp_path: Path) -> None:
    comparison = load_sweep(write_ranks(tmp_path, {8: 1.1, 32: 1.0}, utterances=40, recordings=4))
    found = comparison.statistics
    assert found.reason is Reason.TOO_FEW_RECORDINGS and found.recommended is comparison.best.trial
    assert found.intervals == {} and found.needed is None and found.best_group == [comparison.best.trial]
    assert found.effects[0].values[0].interval is None
    told = document(comparison)
    assert [trial["in_best_group"] for trial in told["trials"] if trial["rank"] == 2] == [None]


def test_trials_without_utterances_are_not_compared(tmp_path: Path) -> None:
    folder = write_ranks(tmp_path, {8: 1.1, 16: 1.0, 32: 1.0}, utterances=60, recordings=20)
    best, lost, _ = [row.trial for row in load_sweep(folder).rows if not row.trial.is_base]
    (folder / lost.name / "utterances.jsonl").unlink()
    found = load_sweep(folder).statistics
    assert [trial.name for trial in found.left_out] == [lost.name] and len(found.pairs) == 3
    assert found.left_out[0] in found.intervals  # its own record has one
    told = {trial["name"]: trial for trial in document(load_sweep(folder))["trials"]}
    assert told[lost.name]["in_best_group"] is None
    (folder / best.name / "utterances.jsonl").unlink()
    found = load_sweep(folder).statistics
    assert found.reason is Reason.NO_UTTERANCES and found.recommended.name == best.name


def test_one_trial_alone_is_taken_without_a_test(tmp_path: Path) -> None:
    found = load_sweep(write_ranks(tmp_path, {8: 1.1}, utterances=40, recordings=20)).statistics
    assert found.reason is Reason.ONLY and found.effects == [] and found.needed is None
    assert [pair.is_significant for pair in found.pairs] == [True] and found.gain and found.gain.shown  # the base
    assert found.recommended in found.intervals


@pytest.mark.slow
def test_thirty_six_trials_of_a_thousand_utterances_take_seconds(night: Path) -> None:
    shutil.rmtree(night / "5")
    start = time.process_time()
    found = load_sweep(night).statistics
    # 30 s of an idle machine are allowed for everything, and the page takes most of them.
    assert time.process_time() - start < 200 * pace()
    assert len(found.pairs) == 36 * 35 // 2 and len(found.intervals) == 35 + 4 and found.reason is not Reason.KEEP_BASE
    assert {effect.method for effect in found.effects} == {"search"}
    rank = {value.value: value for value in found.effects[0].values}
    assert rank[8].effect > 0 and rank[8].interval and rank[8].interval.low > 0
    assert not {trial.params["optim.lr"] for trial in found.best_group} & {2e-5}


def test_of_a_large_sweep_the_best_are_compared(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multirun_analysis.statistics.summary.MOST_COMPARED", 5)
    comparison = load_sweep(small)
    statistics, ordered = comparison.statistics, [row.trial for row in comparison.rows if row.rank]
    assert statistics.beyond == ordered[5:] and len(statistics.pairs) == 15
    assert statistics.intervals.keys() >= set(ordered), "from their own records"
    assert {value.interval for effect in statistics.effects for value in effect.values} == {None}
    assert any("Only the 5 trials" in line for line in conclusions(comparison, ENGLISH))
    told = {row["name"]: row["in_best_group"] for row in document(comparison)["trials"]}
    assert [told[trial.name] for trial in ordered[5:]] == [None] * 3
    assert document(comparison)["statistics"]["not_compared"] == [trial.name for trial in ordered[5:]]
