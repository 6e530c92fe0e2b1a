"""Learning curves: planted laws are found again, intervals hold them, far forecasts are marked, all of it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kimi_audio_ft.errors import UserError
from multirun_analysis.analysis import load_sweep
from multirun_analysis.learning import (
    EXPONENTS,
    LearningCurve,
    LearningStudy,
    PowerLaw,
    fit_learning_curve,
    fit_power_law,
    fit_power_laws,
)
from multirun_analysis.messages import CHINESE, ENGLISH
from multirun_analysis.report.page import write_comparison
from multirun_analysis.sweep import Scores, Status, Trial
from multirun_analysis.words import learning_in_words

SIZES = (1000, 2000, 5000, 9500)
PLANTED = PowerLaw(0.03, 0.04, 0.5, 9500)
RECORDINGS, SEGMENTS, CHARS = 80, 5, 20
MEASURED = np.array([1000.0, 2000.0, 5000.0, 10000.0])


def trials_of(law: PowerLaw, sizes: tuple[int, ...], seed: int, repeats: int = 1) -> list[Trial]:
    """Trials with errors drawn at the law's rate; recordings are easy or hard at every size alike."""
    rng = np.random.default_rng(seed)
    hardness = np.repeat(rng.gamma(4, 1 / 4, RECORDINGS), SEGMENTS)
    return [
        trial_of(f"{size}-{repeat}", size, rng.poisson(law.at(size) * CHARS * hardness))
        for size in sizes
        for repeat in range(repeats)
    ]


def trial_of(name: str, size: int, edits: np.ndarray) -> Trial:
    cer = float(edits.sum() / (CHARS * len(edits)))
    record: dict[str, Any] = {"train_conversations": size, "steps": 745}
    strict = Scores.from_record({"cer": cer}, Path(name))
    trial = Trial(name, Path(name), Status.COMPLETED, {}, record=record, strict=strict)
    counts = {"chars": CHARS, "normalised_edits": 0, "normalised_chars": CHARS}
    vars(trial)["utterances"] = [
        {"id": str(place), "repeat": 0, "recording": str(place // SEGMENTS), "edits": int(count), **counts}
        for place, count in enumerate(edits)
    ]
    return trial


def curve_of(law: PowerLaw = PLANTED, sizes: tuple[int, ...] = SIZES, seed: int = 0, repeats: int = 1) -> LearningCurve:
    return fit_learning_curve(trials_of(law, sizes, seed, repeats))


def errors_of(floor: float, scale: float, exponent: float) -> np.ndarray:
    law = PowerLaw(floor, scale, exponent, MEASURED[-1])
    return np.array([law.at(size) for size in MEASURED])


@pytest.mark.parametrize(
    ("floor", "scale", "exponent"), [(0.03, 0.05, 0.4), (0.0, 0.1, 0.3), (0.08, 0.01, 1.2), (0.02, 0.2, 0.15)]
)
def test_a_planted_law_is_found(floor: float, scale: float, exponent: float) -> None:
    law = fit_power_law(MEASURED, errors_of(floor, scale, exponent))
    assert law.exponent == pytest.approx(exponent, rel=5e-3)
    assert law.floor == pytest.approx(floor, abs=2e-3) and law.scale == pytest.approx(scale, abs=2e-3)
    assert law.at(100_000) == pytest.approx(floor + scale * 10**-exponent, abs=5e-4)


def test_errors_that_do_not_fall_are_a_constant() -> None:
    law = fit_power_law(MEASURED, np.array([0.1, 0.12, 0.11, 0.13]))
    assert law.scale == 0 and 0.1 < law.floor < 0.13 and law.at(1e6) == law.floor


def test_no_floor_is_below_nothing() -> None:
    falling = np.array([0.4, 0.2, 0.05, 0.004])  # faster than any law that ends above 0
    law = fit_power_law(MEASURED, falling)
    assert law.floor == 0 and law.scale > 0 and EXPONENTS[0] <= law.exponent <= EXPONENTS[1]


def test_no_other_law_fits_better() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        errors = errors_of(0.03, 0.05, 0.5) + rng.normal(0, 0.004, len(MEASURED))
        weights = 1 / errors

        def loss(law: PowerLaw, errors: np.ndarray = errors, weights: np.ndarray = weights) -> float:
            return float(sum(weights * (errors - np.array([law.at(size) for size in MEASURED])) ** 2))

        best = loss(fit_power_law(MEASURED, errors))
        others = zip(rng.uniform(0, 0.1, 300), rng.uniform(0, 0.1, 300), rng.uniform(*EXPONENTS, 300), strict=True)
        assert all(best <= loss(PowerLaw(*other, MEASURED[-1])) + 1e-9 for other in others)


def test_many_at_once_are_those_of_one_by_one() -> None:
    measured = errors_of(0.03, 0.05, 0.4)
    rows = measured + np.random.default_rng(2).normal(0, 0.003, (10, len(MEASURED)))
    laws = fit_power_laws(MEASURED, measured, rows)
    for place, row in enumerate(rows):
        [alone] = fit_power_laws(MEASURED, measured, row[None]).at(50_000)
        assert laws.at(50_000)[place] == pytest.approx(alone)


@pytest.mark.slow
def test_intervals_hold_the_planted_law() -> None:
    """Nominally 95 of 100; the law's bounds make some of them narrower."""
    held = np.zeros(3)
    for seed in range(30):
        forecasts = curve_of(seed=seed).forecasts
        assert [one.size for one in forecasts] == [19_000, 50_000, 100_000]
        for place, one in enumerate(forecasts):
            assert one.interval is not None
            held[place] += one.interval.low <= PLANTED.at(one.size) <= one.interval.high
    assert held.min() >= 26


def test_intervals_grow_with_distance_and_not_to_the_point_of_saying_nothing() -> None:
    widths = [one.interval.high - one.interval.low for one in curve_of().forecasts if one.interval]
    assert widths == sorted(widths) and widths[0] < 0.03


def test_forecasts_far_beyond_the_data_are_marked() -> None:
    assert [one.is_far for one in curve_of().forecasts] == [False, False, True]
    small = curve_of(sizes=(100, 200, 800)).forecasts
    assert [(one.size, one.is_far) for one in small] == [(1600, False), (50_000, True), (100_000, True)]
    assert [one.size for one in curve_of(sizes=(1000, 9000, 60_000)).forecasts] == [120_000]


@pytest.mark.slow
def test_points_that_do_not_follow_a_law_are_told() -> None:
    """A law that holds is doubted in few of many studies; one size that came out far worse is doubted in all."""
    assert sum(bool(curve_of(seed=seed).off) for seed in range(20)) <= 4
    for seed in range(5):
        trials = trials_of(PLANTED, SIZES, seed)
        worse = trials_of(PowerLaw(0.12, 0.04, 0.5, 9500), SIZES, seed)
        curve = fit_learning_curve([*trials[:2], worse[2], trials[3]])
        assert 5000 in curve.off
        [law, _] = learning_in_words(LearningStudy([curve], None), ENGLISH)
        assert f"The CER at {ENGLISH.listed([f'{size:,}' for size in curve.off])} is off this curve" in law


def test_the_line_is_ready_to_be_drawn() -> None:
    curve = curve_of()
    sizes = [one.size for one in curve.line]
    assert sizes[0] == 1000 and sizes[-1] == 100_000 and sizes == sorted(set(sizes)) and len(sizes) > 40
    assert all(one.cer == curve.law.at(one.size) for one in curve.line)
    assert curve.steps == (745, 745)


def test_trials_of_one_size_are_averaged_and_their_luck_is_in_the_interval() -> None:
    trials = trials_of(PLANTED, SIZES, 3)
    lucky = [trial_of(f"lucky {t.name}", t.record["train_conversations"], np.array([0] * 400)) for t in trials]
    curve = fit_learning_curve([*trials, *lucky])
    assert [point.cer for point in curve.points] == pytest.approx([trial.cer / 2 for trial in trials])
    alone, both = fit_learning_curve(trials).forecasts[0].interval, curve.forecasts[0].interval
    assert alone is not None and both is not None and both.high - both.low > 2 * (alone.high - alone.low)


def test_no_effect_is_called_none() -> None:
    flat = curve_of(PowerLaw(0.06, 0.0, 0.5, 9500))
    assert flat.is_falling is False and curve_of().is_falling is True


@pytest.mark.parametrize(("sizes", "found"), [((1000, 2000), r"there are 2 \(1,000, 2,000\)"), ((), r"0 \(none\)")])
def test_fewer_than_three_sizes_are_refused(sizes: tuple[int, ...], found: str) -> None:
    with pytest.raises(UserError, match=rf"at least 3 sizes.*{found}\. Train with more values of data\.train_subset"):
        curve_of(sizes=sizes)


@pytest.mark.slow
def test_a_sweep_over_sizes_is_told_and_written(sweep: Any) -> None:
    for number, (size, cer) in enumerate([(100, 0.4), (200, 0.3), (400, 0.24), (None, 0.2)]):
        sweep.trial_of_size(2 * number, size, cer)
        sweep.trial_of_size(2 * number + 1, size, cer + 0.1, temperature=0.3)
    comparison = load_sweep(sweep.folder)
    assert comparison.swept == ["decoding.text_temperature", "data.train_subset"]
    assert comparison.learning is not None
    lines = learning_in_words(comparison.learning, ENGLISH)
    assert len(lines) == 4 and "temperature=0.0" in lines[0] and "temperature=0.3" in lines[2]  # the lower curve first
    assert lines[0].startswith(
        "Learning curve, temperature=0.0: CER 40.0 % at 100 conversations, 20.0 % at 800 (200 steps each), falling as "
    )
    assert lines[1].startswith("Forecast for more conversations: 1") and " % at 1,600; 1" in lines[1]
    assert lines[1].endswith(" % at 100,000 (a guess: far outside the measured sizes).")
    chinese = learning_in_words(comparison.learning, CHINESE)
    assert chinese[0].startswith("学习曲线：temperature=0.0：100 条对话时 CER 40.0 %，800 条时 20.0 %（各 200 步），按")
    assert "100,000 条时 1" in chinese[1] and chinese[1].endswith("（猜测：远超出测量范围）。")
    page = write_comparison(comparison).html.read_text(encoding="utf-8")
    assert lines[0].removeprefix("Learning curve, ") in page
    written = json.loads(write_comparison(comparison).json.read_text(encoding="utf-8"))["learning_curve"]
    assert written["refused"] is None and [curve["setting"] for curve in written["curves"]] == [
        {"decoding.text_temperature": 0.0},
        {"decoding.text_temperature": 0.3},
    ]
    first = written["curves"][0]
    assert [point["size"] for point in first["points"]] == [100, 200, 400, 800]
    assert [point["trials"] for point in first["points"]] == [["0"], ["2"], ["4"], ["6"]]
    assert first["forecasts"][0]["interval"] is None  # four recordings


def test_a_sweep_over_two_sizes_says_why_there_is_no_curve(sweep: Any) -> None:
    sweep.trial_of_size(0, 100, 0.4)
    sweep.trial_of_size(1, 200, 0.3)
    comparison = load_sweep(sweep.folder)
    [line] = learning_in_words(comparison.learning, ENGLISH)
    assert line.startswith("There are too few sizes for a learning curve") and "data.train_subset" in line
    assert json.loads(write_comparison(comparison).json.read_text("utf-8"))["learning_curve"]["curves"] == []


def test_other_sweeps_have_none(sweep_24: Path) -> None:
    comparison = load_sweep(sweep_24)
    assert comparison.learning is None and learning_in_words(None, ENGLISH) == []
    assert json.loads(write_comparison(comparison).json.read_text("utf-8"))["learning_curve"] is None
