"""The leaderboard, the gain over the base and what counts as a swept parameter."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep_folder import record_fitting
from kimi_audio_ft.text import duration
from multirun_analysis import load_sweep, words
from multirun_analysis.words import effort, headline, setting, show, trial_title
from tests.report_page import page_of


def test_rows_are_ordered_by_cer_with_the_bases_among_them(sweep_24: Path) -> None:
    comparison = load_sweep(sweep_24)
    cers = [row.trial.cer for row in comparison.rows]
    assert cers == sorted(cers) and len(cers) == 28
    assert [row.rank for row in comparison.rows if row.rank] == list(range(1, 25))
    assert comparison.best.trial.params["lora.r"] == 32
    assert sum(row.trial.is_base for row in comparison.rows) == 4


def test_gain_is_relative_to_the_base_under_the_same_decoding(sweep) -> None:
    sweep.trial(0, temperature=0.0, cer=0.34)
    sweep.trial(1, temperature=0.3, cer=0.37)
    gains = {row.trial.name: row.gain for row in load_sweep(sweep.folder).rows if row.rank}
    assert gains == {"0": pytest.approx(1 - 0.34 / 0.68), "1": pytest.approx(1 - 0.37 / 0.74)}


def test_equal_cers_share_a_rank_and_the_smaller_adapter_comes_first(sweep) -> None:
    for number, rank in enumerate((32, 8, 2)):
        sweep.trial(number, rank=rank, cer=0.2 if rank > 2 else 0.3)
    rows = [row for row in load_sweep(sweep.folder).rows if row.rank]
    assert [(row.rank, row.trial.params["lora.r"]) for row in rows] == [(1, 8), (1, 32), (3, 2)]


def test_swept_parameters_leave_out_what_merely_follows(sweep_24: Path) -> None:
    comparison = load_sweep(sweep_24)
    assert comparison.swept == ["lora.r", "optim.lr", "decoding.text_temperature"]
    assert comparison.charted == comparison.swept


def test_a_follower_that_was_given_on_the_command_line_counts(sweep) -> None:
    sweep.trial(0, rank=2, extra_overrides=("lora.lora_alpha=4",))
    sweep.trial(1, rank=8, extra_overrides=("lora.lora_alpha=16",))
    assert load_sweep(sweep.folder).swept == ["lora.r", "lora.lora_alpha"]


def test_an_override_that_scores_do_not_list_counts_too(sweep) -> None:
    sweep.trial(0, extra_overrides=("lora=rslora",))
    sweep.trial(1, cer=0.01)
    comparison = load_sweep(sweep.folder)
    assert comparison.swept == ["lora"]
    assert comparison.distinct("lora") == ["rslora", None]


def test_a_value_that_only_failed_trials_have_is_swept_but_not_charted(sweep) -> None:
    sweep.trial(0)
    sweep.fail(1, rate=0.1)
    comparison = load_sweep(sweep.folder)
    assert comparison.swept == ["optim.lr"] and comparison.charted == []


def test_the_seed_comes_last(sweep) -> None:
    for number, seed in enumerate((0, 1)):
        params = sweep.params(8, 1e-3, 0.1 * number) | {"seed": seed}
        sweep.trial(number, temperature=0.1 * number, params=params, extra_overrides=(f"seed={seed}",))
    assert load_sweep(sweep.folder).swept == ["decoding.text_temperature", "seed"]


def test_means_are_over_the_trials_of_each_value(sweep) -> None:
    for number, (rank, cer) in enumerate([(2, 0.5), (2, 0.3), (8, 0.1)]):
        sweep.trial(number, rank=rank, rate=10.0**-number, cer=cer)
    means = load_sweep(sweep.folder).means("lora.r")
    assert means == [(2, pytest.approx(0.4)), (8, 0.1)]


def test_adapters_are_counted_once_and_reuse_costs_nothing(sweep_24: Path) -> None:
    comparison = load_sweep(sweep_24)
    assert [len(adapter.trials) for adapter in comparison.adapters] == [4] * 6
    assert [adapter.train_seconds for adapter in comparison.adapters] == [41.5] * 6
    said = "24 trials finished; 6 adapters, 6 trained in {}; without sharing there would have been 24 trainings."
    assert effort(comparison) == said.format("4 min 09 s")
    record_fitting(sweep_24, 60.0)  # packs train several adapters in the same seconds
    record_fitting(sweep_24, 21.0)  # in a second launch
    assert effort(load_sweep(sweep_24)) == said.format("1 min 21 s")


def test_without_a_finished_trial_the_first_failure_is_told(sweep) -> None:
    sweep.fail(0)
    sweep.start(1, 8, 1e-3, 0.0)
    told = r"1 failed, 1 unfinished\. Trial 0: FloatingPointError: loss is nan at step 12"
    with pytest.raises(UserError, match=told):
        load_sweep(sweep.folder)


def test_the_headline_says_the_result_in_words(sweep) -> None:
    sweep.trial(0, rank=8, cer=0.5)
    sweep.trial(1, rank=32, cer=0.068)
    assert headline(load_sweep(sweep.folder)) == (
        "Best: trial 1, lora.r=32: CER 6.8 %, base 68.0 %, a relative reduction of 90 %."
    )


def test_the_headline_owns_up_to_a_loss_and_to_a_missing_base(sweep) -> None:
    folder = sweep.trial(0, cer=0.85)
    assert headline(load_sweep(sweep.folder)).endswith("CER 85.0 %, base 68.0 %, a relative increase of 25 %.")
    (folder / "baseline.json").unlink()
    assert headline(load_sweep(sweep.folder)).endswith("so the gain over it is unknown.")


def test_a_base_without_errors_gives_no_gain_instead_of_a_division_by_zero(sweep, change) -> None:
    folder = sweep.trial(0, cer=0.1)
    change(folder / "baseline.json", cer=0.0)
    comparison = load_sweep(sweep.folder)
    assert comparison.best.gain is None
    assert headline(comparison).endswith("CER 10.0 %, base 0.0 %, worse: the base makes no error.")
    change(folder / "scores.json", cer=0.0)
    assert headline(load_sweep(sweep.folder)).endswith("CER 0.0 %, base 0.0 %, no change.")


@pytest.mark.parametrize(("cer", "told"), [(0.68, "no change"), (0.679, "a relative reduction of 0.15 %")])
def test_a_change_of_less_than_a_percent_is_not_called_zero(sweep, cer: float, told: str) -> None:
    sweep.trial(0, cer=cer)
    assert headline(load_sweep(sweep.folder)).endswith(f"{told}.")


def test_changes_are_signed_and_nothing_is_no_minus_zero() -> None:
    assert [words.change(gain) for gain in (0.8, -0.25, 0.0, 0.004, None)] == ["-80 %", "+25 %", "0 %", "0 %", "–"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((5e-5, "5e-5"), (1e-4, "1e-4"), (2.5e-7, "2.5e-7"), (0.003, "0.003"), (0.0, "0.0"), (1.0, "1.0")),
        *((8, "8"), (True, "true"), (None, "–"), (["q", 1e-3], "[q, 0.001]"), ("decoder", "decoder")),
        ({"zero": {"stage": 3}, "lr": 1e-5}, "{zero: {stage: 3}, lr: 1e-5}"),
    ],
)
def test_values_are_shown_as_one_types_them(value: object, text: str) -> None:
    assert show(value) == text


def test_durations() -> None:
    assert [duration(s) for s in (3.21, 42, 249.4, 3900, None)] == ["3.2 s", "42 s", "4 min 09 s", "1 h 05 min", "–"]


def test_a_setting_names_only_what_varies(sweep_24: Path) -> None:
    comparison = load_sweep(sweep_24)
    assert setting(comparison.sweep.trials[1], comparison.swept) == "lora.r=2 optim.lr=0.001 temperature=0.1"


def test_a_time_without_a_word_about_its_origin_is_still_a_page(sweep, change) -> None:
    folder = sweep.trial(0)
    record = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    del record["train_reused"]
    sweep.write(folder / "scores.json", record)
    assert effort(load_sweep(sweep.folder)) == "1 trial finished; 1 adapter, 1 trained in 42 s."
    assert "<dd>42 s</dd>" in page_of(sweep.folder)
    change(folder / "scores.json", train_reused=True)
    assert effort(load_sweep(sweep.folder)) == (
        "1 trial finished; 1 adapter, all from the store, where they had been trained in 42 s; "
        "without sharing there would have been 1 training."
    )
    assert "<dd>42 s (reused)</dd>" in page_of(sweep.folder)


def test_a_trial_is_found_whatever_its_folder_is_called(sweep) -> None:
    name = 'lora.r=8,data.prompt=50% <b>"x" 中文'
    sweep.trial(0).rename(sweep.folder / name)
    page = page_of(sweep.folder)
    (link,) = re.findall(r'href="#(trial-[^"]*)"', page)
    (mark,) = re.findall(r'<details id="([^"]*)"', page)
    assert unquote(link) == html.unescape(mark) == f"trial-{name}"


def test_every_prompt_has_a_base_of_its_own(sweep, change) -> None:
    for number, (name, text, cer) in enumerate([("chinese", "转录。", 0.5), ("english", "Transcribe:", 0.7)]):
        params = sweep.params(8, 1e-3, 0.0) | {"data.prompt": text}
        folder = sweep.trial(number, cer=0.3, params=params, extra_overrides=(f"prompt={name}",))
        change(folder / "baseline.json", cer=cer, params=params)
    comparison = load_sweep(sweep.folder)
    assert comparison.swept == ["prompt"]
    assert [row.gain for row in comparison.rows[:2]] == pytest.approx([1 - 0.3 / 0.5, 1 - 0.3 / 0.7])
    assert [(row.trial.cer, trial_title(row.trial, comparison.swept)) for row in comparison.rows[2:]] == [
        (0.5, "base (no adapter) prompt=chinese"),
        (0.7, "base (no adapter) prompt=english"),
    ]


def test_what_an_augmentation_sets_is_not_told_beside_its_name(sweep) -> None:
    for number, (name, speeds) in enumerate([("none", [1.0]), ("speed", [0.9, 1.1])]):
        params = sweep.params(8, 1e-3, 0.0) | {"data.augment.speeds": speeds}
        sweep.trial(number, params=params, extra_overrides=(f"augment={name}",), signature=name)
    assert load_sweep(sweep.folder).swept == ["augment"]
