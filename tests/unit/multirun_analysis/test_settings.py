"""Trials that differ only in their seeds are one row, and the verdict is about their settings."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import CHINESE, ENGLISH
from multirun_analysis.report.next_steps import next_steps
from multirun_analysis.report.page import render
from multirun_analysis.settings import Setting, settings_of
from multirun_analysis.statistics.results import Needed, Reason
from multirun_analysis.sweep import Scores, Status, Trial
from multirun_analysis.tables import trials_json
from multirun_analysis.words import conclusions, headline
from tests.report_page import printed, visible
from tests.synthetic_errors import Planted
from tests.synthetic_sweep import write_ranks, write_sweep

NOW = datetime(2026, 1, 1)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Three ranks with three seeds each: 4 makes 80 % more errors, the others as many, seeds differ by some percent."""
    truth = Planted(factors={"lora.r": {4: 1.8}, "seed": {1: 1.06, 2: 0.95}})
    folder = tmp_path_factory.mktemp("seeded") / "sweep"
    grid: dict[str, Any] = {"ranks": (4, 8, 16), "rates": (5e-5,), "temperatures": (0.0,), "seeds": (1, 2, 3)}
    return load_sweep(write_sweep(folder, **grid, utterances=240, recordings=30, planted=truth))


def test_settings_are_ranked_by_the_mean_of_their_seeds(seeded: Analysis) -> None:
    ranked = [setting for setting in seeded.settings if not setting.is_base]
    assert [len(setting.trials) for setting in ranked] == [3, 3, 3] and seeded.naming == ["lora.r"]
    assert [setting.rate for setting in ranked] == sorted(setting.rate for setting in ranked)
    for setting in ranked:
        rates = [trial.cer for trial in setting.trials]
        assert len({trial.params["lora.r"] for trial in setting.trials}) == 1 and rates == sorted(rates)
        assert (setting.rate, setting.spread) == (pytest.approx(mean(rates)), pytest.approx(stdev(rates)))
        assert (setting.lowest, setting.highest) == (min(rates), max(rates))
    assert [row.rank for row in seeded.rows if not row.trial.is_base] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_verdict_is_about_settings(seeded: Analysis) -> None:
    found = seeded.statistics
    assert found.reason is Reason.LOWEST and {trial.params["lora.r"] for trial in found.best_group} == {8, 16}
    assert found.recommended is seeded.best.trial and len(found.pairs) == 6 and len(found.standings) == 4
    assert [effect.param for effect in found.effects] == ["lora.r"]
    best = seeded.best.setting
    wide, narrow = found.setting_intervals[best.trial], found.intervals[best.trial]
    assert wide.low < best.rate < wide.high and wide.high - wide.low > narrow.high - narrow.low
    assert found.seeds is not None and found.seeds.freedom.tolist() == [6] and 0.01 < found.seeds.spread[0] < 0.12


def test_terminal_and_page_have_a_row_for_each_setting(seeded: Analysis) -> None:
    said, page = printed(seeded, 150), render(seeded, NOW, ENGLISH)
    best = seeded.best.setting
    named = rf"^ *1 +{best.trial.name} +{best.trial.params['lora.r']} "
    row = rf"{named} *{100 * best.rate:.2f} .*±{100 * (best.spread or 0):.2f} x3 "
    assert re.search(row, said, re.MULTILINE)
    assert len(re.findall(r"^ *≈?\d +\d+ +\d+ ", said.partition("Best:")[0], re.MULTILINE)) == 3
    assert len(re.findall(r'<tr class="[^"]*" data-name="\d+" data-names', page)) == 3
    assert all(f'<a href="#trial-{trial.name}">seed=' in page for trial in best.trials)
    assert headline(seeded) in visible(page) and "the mean of 3 seeds (" in headline(seeded)


def test_words_name_settings_and_the_adapter_to_take(seeded: Analysis) -> None:
    said, chinese = " ".join(conclusions(seeded, ENGLISH)), " ".join(conclusions(seeded, CHINESE))
    taken = seeded.statistics.recommended
    assert f"Recommended: lora.r={taken.params['lora.r']}, mean CER" in said and "One other setting is not" in said
    assert f"Take the adapter of trial {taken.name} (seed={taken.params['seed']}), CER {100 * taken.cer:.2f} %" in said
    assert "the lowest of its 3 seeds" in said
    assert "(standard deviation, 6 degrees of freedom)" in said and "自由度 6" in chinese


def test_further_seeds_are_those_that_the_setting_lacks(seeded: Analysis) -> None:
    gain = seeded.statistics.gain
    assert gain
    more = Needed(gain.trial, gain.base, gain.difference, 1600, 200, 0.8, seeds=5)
    statistics = replace(seeded.statistics, gain=replace(gain, shown=False), gain_needed=more, recommended=gain.base)
    first = next_steps(replace(seeded, statistics=statistics), ENGLISH)[0]
    assert "about 5 seeds and 200 recordings (1,600 utterances) are needed; there are 3 and 30" in first.said
    assert " seed=1,2,3,4,5 " in first.commands[0] and f" lora.r={gain.trial.params['lora.r']} " in first.commands[0]


def test_without_seeds_it_is_said_whose_luck_is_not_known(tmp_path: Path) -> None:
    found = load_sweep(write_ranks(tmp_path, {8: 1.2, 16: 1.0}))
    assert not found.has_seeds and len(found.settings) == len(found.rows)
    assert "of these adapters, not of their settings" in " ".join(conclusions(found, ENGLISH))
    assert "settings" not in json.loads(trials_json(found, NOW))


def test_trials_json_has_the_settings(seeded: Analysis) -> None:
    told = json.loads(trials_json(seeded, NOW))
    first = told["settings"][0]
    assert first["setting"] == f"lora.r={seeded.best.trial.params['lora.r']}" and len(first["trials"]) == 3
    assert first["rate_lowest"] <= first["rate"] <= first["rate_highest"] and first["rate_ci_low"] < first["rate"]
    of_best = {trial["name"]: trial for trial in told["trials"] if trial["name"] in first["trials"]}
    assert {(one["in_best_group"], one["rank"]) for one in of_best.values()} == {(True, 1)}
    assert [one["recommended"] for one in of_best.values()].count(True) == 1
    assert told["statistics"]["method"]["seed_degrees_of_freedom"] == 6


def test_one_setting_with_several_seeds_is_not_called_a_trial(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"ranks": (8,), "rates": (5e-5,), "temperatures": (0.0,), "seeds": (1, 2)}
    found = load_sweep(write_sweep(tmp_path / "sweep", **grid, utterances=60, recordings=20))
    assert headline(found).startswith("One setting: the setting: CER")
    assert found.statistics.reason is Reason.ONLY and conclusions(found, ENGLISH)[0].startswith("There is one setting")
    assert "the setting" in printed(found, 120)


def test_a_repeated_seed_is_no_further_seed() -> None:
    strict = Scores(**dict.fromkeys(Scores.__dataclass_fields__) | {"cer": 0.1})
    made = [
        Trial(name, Path(name), Status.COMPLETED, {"seed": seed}, strict=replace(strict, cer=cer))
        for name, cer, seed in (("0", 0.3, 1), ("1", 0.1, 2), ("2", 0.3, 1))
    ]
    found = settings_of(made, ["lora.r", "seed"])
    assert [[one.name for one in setting.trials] for setting in found] == [["1", "0"], ["2"]]
    assert [len(one.trials) for one in settings_of(made, ["lora.r"])] == [1, 1, 1]
    assert Setting(made[:1]).spread is None
