"""Transcripts of a sweep combined: texts, figures and costs, their place in the report, and what cannot be combined."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig as PeftLoraConfig
from rich.console import Console
from safetensors.torch import save_file

from kimi_audio_ft.combine.combinations import combine
from kimi_audio_ft.combine.sources import Source, chosen_trials
from kimi_audio_ft.config.commands import CombineConfig
from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.manifest.hotwords import hotwords_facts
from kimi_audio_ft.sweep.confirm.unseen import require_same_words, require_unseen
from kimi_audio_ft.sweep.plan import written_config
from kimi_audio_ft.sweep_folder import BeingRun, claim
from multirun_analysis.analysis import load_sweep
from multirun_analysis.messages import CHINESE, ENGLISH
from multirun_analysis.report.board import Board
from multirun_analysis.report.combined import Combinations, Combined, combinations_of, read_combinations
from multirun_analysis.report.page import render
from multirun_analysis.report.stored_combinations import chosen_of, combinations_shown
from multirun_analysis.statistics.results import Interval
from multirun_analysis.tables import trials_csv, trials_json
from multirun_analysis.terminal import print_combinations, print_leaderboard
from tests.consensus import consensus
from tests.synthetic_sweep import write_sweep, write_yaml


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials 0 (rank 8, greedy), 1 (rank 8, five samples), 2 and 3 (rank 16)."""
    grid: dict[str, Any] = {"ranks": (8, 16), "rates": (5e-5,), "temperatures": (0.0, 0.3)}
    return write_sweep(tmp_path_factory.mktemp("sweep"), **grid, utterances=40, recordings=8, repeats=5)


def texts_of(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in read_jsonl(folder / "utterances.jsonl"):
        found.setdefault(row["id"], []).append(row["hypothesis"])
    return found


def test_samples_and_trials_are_combined_and_compared_with_the_best_trial(sweep: Path, tmp_path: Path) -> None:
    found = combine(CombineConfig(str(sweep), trials=["0", "1", "3"], mean=False, out=str(tmp_path / "out")))
    out = found.folder
    assert found.rate == min(json.loads((sweep / n / "scores.json").read_text())["cer"] for n in ("0", "1", "3"))
    rows = {row.name: row for row in found.rows}
    assert {name: (row.decodings, row.adapters) for name, row in rows.items()} == {
        **{"samples-1": (5, 1), "samples-3": (5, 1), "trials": (11, 2)}
    }
    assert texts_of(out / "samples-1") == {key: [consensus(some)] for key, some in texts_of(sweep / "1").items()}
    order = rows["trials"].trials
    heard = [texts_of(sweep / name) for name in order]
    weights = [5 if name == "0" else 1 for name in order for _ in range(1 if name == "0" else 5)]
    expected = {key: [consensus([text for one in heard for text in one[key]], weights)] for key in heard[0]}
    assert texts_of(out / "trials") == expected
    for row in found.rows:
        lines = read_jsonl(out / row.name / "utterances.jsonl")
        assert row.rate == pytest.approx(sum(line["edits"] for line in lines) / sum(line["chars"] for line in lines))
        assert row.difference == pytest.approx(row.rate - found.rate) and row.p_adjusted is not None
        assert row.interval is not None and row.interval.low <= row.difference <= row.interval.high
        assert {"audio", "recording", "seconds"} <= lines[0].keys()
    chosen = chosen_of(found.rows)
    assert found.chosen == (chosen and chosen.name) and found.tested is None
    assert combine(CombineConfig(str(sweep), trials=["0", "1", "3"], mean=False, out=str(out))) == found
    other: dict[str, Any] = {"trials": ["1"], "mean": False, "out": str(out)}
    with pytest.raises(ConfigError, match=r"holds another set of combinations \(trials differ\).*overwrite=true"):
        combine(CombineConfig(str(sweep), **other))
    assert read_combinations(out) == found
    combine(CombineConfig(str(sweep), **other, overwrite=True))
    assert [row.name for row in read_combinations(out).rows] == ["samples-1"] and not (out / "trials").exists()


def test_a_report_has_by_itself_what_the_command_makes_of_the_same_texts(sweep: Path, tmp_path: Path) -> None:
    """Without its files, and without syllables and categories, which are not shown of a combination."""
    own = shutil.copytree(sweep, tmp_path / "sweep")
    for number in ("1", "3"):  # answers that the limit has cut
        path = own / number / "utterances.jsonl"
        rows = read_jsonl(path)
        path.write_text("".join(json.dumps(row | {"truncated": True}) + "\n" for row in rows if row["repeat"] == 0))
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows if row["repeat"] > 0)
    analysis = load_sweep(own)
    found = combinations_shown(analysis)
    made = combine(CombineConfig(str(own), mean=False, out=str(tmp_path / "out")))
    assert found is not None and combinations_shown(analysis) is found
    assert (found.folder, found.trial, found.rate, found.facts) == (None, made.trial, made.rate, made.facts)
    assert {row.name: row for row in found.rows} == {row.name: row for row in made.rows} and len(found.rows) == 2
    slow = {row.name: trial for row, trial in made.scored}
    for row, trial in found.scored:
        twin = slow[row.name]
        assert twin.strict is not None and trial.strict == replace(twin.strict, pinyin_error_rate=None)
        assert twin.strict.truncated_outputs
        marked = [line for line in twin.utterances if line.get("truncated")]
        assert len(marked) == twin.strict.truncated_outputs
        assert [trial.record[name] for name in ("cer_ci_low", "cer_ci_high")] == pytest.approx(
            [twin.record[name] for name in ("cer_ci_low", "cer_ci_high")]
        )
        assert trial.rate_by("normalised_cer") == pytest.approx(twin.rate_by("normalised_cer"))
    for rank_by in ("normalised_cer", "pinyin", "wer"):
        shown = combinations_shown(load_sweep(own, rank_by=rank_by))
        assert shown is not None and all(trial.rate == row.rate for row, trial in shown.scored)


def test_the_report_shows_them_until_a_trial_is_replaced(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(sweep, tmp_path / "sweep")
    found = combine(CombineConfig(str(own), trials=["1", "3"], mean=False))
    assert found.folder == own / "combinations" and len(found.rows) == 3
    assert combinations_of(load_sweep(own)) == found
    analysis, (least, *_) = load_sweep(own), sorted(found.rows, key=lambda row: row.rate)
    lines, titles = Board(analysis).lines, {row.title(ENGLISH) for row in found.rows}
    rates = [line.rate if line.combined else line.setting.rate for line in lines]
    assert rates == sorted(rates) and len(lines) == len(analysis.settings) + 3
    assert {line.combined.title(ENGLISH) for line in lines if line.combined} == titles
    told = json.loads(trials_json(analysis, datetime.now()))["combinations"]
    assert (told["trial"], told["chosen"], told["test"]) == (found.trial, found.chosen, None)
    figures = {one["name"]: (one["trial"], one["rate"], one["combination"]["decodings"]) for one in told["rows"]}
    assert figures == {row.name: (row.title(ENGLISH), pytest.approx(row.rate), row.decodings) for row in found.rows}
    table = [row for row in csv.DictReader(trials_csv(analysis).splitlines()) if row["kind"] == "combination"]
    assert {(row["name"], row["combination.decodings"]) for row in table} == {
        (row.name, str(row.decodings)) for row in found.rows
    }
    page = render(analysis, datetime.now(), CHINESE)
    assert all(row.title(CHINESE) in page.split('id="combinations"')[0] for row in found.rows)
    print_leaderboard(analysis, Console(width=160))
    said = capsys.readouterr().out
    assert f"{100 * least.rate:.2f}" in said and f"× {least.decodings}" in said
    assert found.verdict(ENGLISH) in " ".join(said.split()) and "kimi_audio_ft.combine" not in said
    print_combinations(found, Console(width=120))
    said = capsys.readouterr().out
    assert f"trial {found.trial}, the best of those combined" in said and f"{100 * found.rate:.2f}" in said
    assert all(f"{100 * row.difference:+.2f}" in said for row in found.rows)
    assert combinations_of(load_sweep(own, rank_by="wer")) is None
    path = own / found.trial / "scores.json"
    scores = json.loads(path.read_text())
    for change in ({"transcript_signatures": ["another"]}, {"cer": 0.5}):
        path.write_text(json.dumps(scores | change))
        assert combinations_of(load_sweep(own)) is None, change
    path.write_text(json.dumps(scores))
    assert combinations_of(load_sweep(own)) == found
    for path in (*own.glob("*/scores.json"), *own.glob("*/baseline.json")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"word_lists": {"terms": ["甲"], "names": []}}))
    assert combinations_of(load_sweep(own)) is None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text[:100], "is not JSON"),
        (
            lambda text: json.dumps(json.loads(text) | {"best": {"trial": "1", "rate": None}}),
            "is no number",
        ),
        (lambda text: text.replace('"version": 2', '"version": 1'), "its version is 1, not 2"),
    ],
)
def test_a_record_that_cannot_be_read_does_not_cost_the_report(
    sweep: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[str], str], problem: str
) -> None:
    own = shutil.copytree(sweep, tmp_path / "sweep")
    combine(CombineConfig(str(own), trials=["1"], mean=False))
    path = own / "combinations" / "combinations.json"
    path.write_text(damage(path.read_text()))
    assert combinations_of(load_sweep(own)) is None
    assert problem in caplog.text and "Remove the folder, and run python -m kimi_audio_ft.combine again" in caplog.text


def test_what_costs_more_decodings_is_chosen_only_if_it_is_shown_to_be_better() -> None:
    def row(name: str, decodings: int, difference: float, interval: Interval | None) -> Combined:
        return Combined(name, "trials", ["0", "1"], decodings, 1, 0.3 + difference, difference, interval, None)

    luck, shown = row("luck", 3, -0.03, Interval(-0.07, 0.01)), row("shown", 4, -0.02, Interval(-0.03, -0.01))
    mean, worse = row("mean", 1, -0.01, Interval(-0.03, 0.01)), row("worse", 1, 0.01, None)
    assert chosen_of([luck, worse]) is None and chosen_of([luck, mean, worse]) is mean
    assert chosen_of([luck, mean, shown, worse]) is shown

    def made(chosen: Combined | None) -> Combinations:
        rows = [luck, mean, shown, worse]
        return Combinations(Path("made"), "cer", {}, "0", 0.3, rows, chosen and chosen.name, None)

    assert [line.decodings for line in made(shown).lines(ENGLISH) if line.is_best] == ["4"]
    assert not any(line.is_best for line in made(mean).lines(ENGLISH))
    assert "not proven better than trial 0" in made(mean).verdict(ENGLISH)
    assert made(None).verdict(ENGLISH) == "No combination is proven better than trial 0."


def test_without_names_the_best_trials_are_taken_one_of_each_adapter(sweep: Path) -> None:
    analysis = load_sweep(sweep)
    found = chosen_trials(analysis, CombineConfig(str(sweep)))
    adapters = [trial.record["signature"] for trial in found]
    may_be_best = {trial.record["signature"] for trial in analysis.statistics.best_group}
    assert set(adapters) == may_be_best and len(adapters) == len(may_be_best) == 2
    assert analysis.statistics.choice in found and found[0].rate <= found[1].rate


def test_most_bounds_the_sampled_trials_too(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"ranks": (8,), "rates": (5e-5,), "temperatures": (0.0, 0.3, 0.4, 0.5)}
    sweep = write_sweep(tmp_path / "sweep", **grid, utterances=10, recordings=5, repeats=3)
    found = combine(CombineConfig(str(sweep), most=2, mean=False, out=str(tmp_path / "out")))
    best = sorted(load_sweep(sweep).sweep.trials[1:], key=lambda trial: trial.rate)[:2]
    assert {row.name for row in found.rows if row.kind == "samples"} == {f"samples-{trial.name}" for trial in best}


def test_a_mean_of_orthogonal_adapters_may_have_an_odd_rank(sweep: Path, tmp_path: Path) -> None:
    """Its rank was never a start of a training."""
    own = shutil.copytree(sweep, tmp_path / "sweep")
    path = own / "0" / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("init_lora_weights: default", "init_lora_weights: orthogonal"))
    trial = load_sweep(own).sweep.trials[0]
    assert written_config(trial.folder).lora.init_lora_weights == "orthogonal"
    assert Source(trial, mean=tmp_path / "mean", rank=7).config.lora.r == 7


def test_nobody_else_is_at_work_in_the_sweeps_folder(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is not ours is left as it is."""
    own = shutil.copytree(sweep, tmp_path / "sweep")
    config = CombineConfig(str(own), trials=["1"], mean=False, out=str(tmp_path / "out"))
    with claim(own), pytest.raises(BeingRun, match=r"sweep: is being run \(pid \d+ .*\)\. Wait for its end"):
        combine(config)
    assert not (tmp_path / "out").exists()
    (own / ".running").unlink(missing_ok=True)
    before, access = sorted(own.rglob("*")), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != own and access(path, mode))
    combine(config)
    assert sorted(own.rglob("*")) == before and (tmp_path / "out" / "samples-1").is_dir()


def test_titles_say_what_is_combined() -> None:
    figures: dict[str, Any] = {"rate": 0.2, "difference": -0.1, "interval": None, "p_adjusted": None}
    row = Combined("samples-3-at-0.6", "samples", ["3"], 16, 1, **figures, temperature=0.6)
    assert row.title(ENGLISH) == "MBR of 16 samples of trial 3 at temperature 0.6" and "0.6" in row.title(CHINESE)
    row = Combined("mean", "mean", ["3", "4"], 1, 1, **figures, rank=8, kept=0.953)
    assert row.title(ENGLISH) == "mean of the adapters of trials 3, 4 (rank 8, 95.3 % of the update)"


def test_a_list_of_hot_words_that_was_edited_since(sweep: Path, tmp_path: Path) -> None:
    """Further texts would be of other prompts than those that they are compared with."""
    own, words = shutil.copytree(sweep, tmp_path / "sweep"), tmp_path / "words.txt"
    words.write_text("江来\nLP\n", encoding="utf-8")
    config, scores = own / "0" / ".hydra" / "config.yaml", own / "0" / "scores.json"
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    write_yaml(config, settings | {"prompt": settings["prompt"] | {"hotwords": str(words)}})
    recorded = json.loads(scores.read_text()) | hotwords_facts(["江来", "LP"])
    scores.write_text(json.dumps(recorded))
    [trial] = [one for one in load_sweep(own).sweep.trials if one.name == "0"]
    written = written_config(trial.folder)
    require_same_words(trial, written)
    words.write_text("江来\n", encoding="utf-8")
    source, said = (
        Source(trial, temperature=0.6, samples=3),
        rf"^prompt.hotwords={words}: has changed since the sweep\.",
    )
    for compare in (
        lambda: source.asked(Inputs()),
        lambda: source.asked_on("test.jsonl", Inputs()),
        lambda: require_unseen(trial, written, "test.jsonl", {}, Inputs()),
    ):
        with pytest.raises(DataError, match=said):
            compare()
    trial.record.pop("hotwords_identity")  # as of earlier versions
    require_same_words(trial, written)


def test_what_cannot_be_combined(sweep: Path, tmp_path: Path) -> None:
    out = {"out": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=r"trials=.*: 9 is no finished trial of this sweep\. There are 0, 1, 2, 3"):
        combine(CombineConfig(str(sweep), trials=["0", "9"], **out))
    with pytest.raises(UserError, match=r"nothing to combine.*samples=16.*seed=1,2,3,4.*trials=\[0,3\]"):
        combine(CombineConfig(str(sweep), trials=["0"], **out))
    with pytest.raises(DataError, match=r"its adapter adapter-.* is not in the store any more"):
        combine(CombineConfig(str(sweep), trials=["0", "2"], **out))
    with pytest.raises(ConfigError, match=r"rank=4: .* these trials have one adapter"):
        combine(CombineConfig(str(sweep), trials=["0", "1"], rank=4, **out))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match="exists and does not hold a set of combinations"):
        combine(CombineConfig(str(sweep), trials=["1"], **out))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    for options, message in (
        ({"most": 1}, "most=1: must be 2 or more"),
        ({"rank": 0}, "rank=0: must be 1 or more"),
        ({"samples": 2}, "samples=2: must be 3 or more"),
        ({"temperature": 0.0}, r"temperature=0\.0: must be greater than 0"),
        ({"trials": ["1", "1"]}, "names 1 twice"),
        ({"trials": []}, r"trials=\[\]: must name trials"),
        ({"temperature": 0.6}, r"temperature=0\.6: .*Set samples=16"),
        ({"rank": 4, "mean": False}, "rank=4: .*mean=false"),
        ({"trials": ["1"], "most": 4}, "most=4: needs trials=null"),
        ({"executor": "pbs"}, "executor='pbs': must be one of local, slurm, ray"),
    ):
        with pytest.raises(ConfigError, match=message):
            CombineConfig(str(sweep), **options)


def test_a_mean_whose_rank_vllm_cannot_apply_is_refused_before_anything_is_decoded(
    sweep: Path, tmp_path: Path, private_store: Path
) -> None:
    own = shutil.copytree(sweep, tmp_path / "sweep")
    for number in ("0", "2"):
        signature = json.loads((own / number / "scores.json").read_text())["signature"]
        folder = private_store / "adapter" / signature
        PeftLoraConfig(r=300, target_modules=["up_proj"]).save_pretrained(str(folder))
        factors = {"lora_A": torch.zeros(300, 2), "lora_B": torch.zeros(2, 300)}
        tensors = {f"base_model.model.model.layers.0.mlp.up_proj.{name}.weight": one for name, one in factors.items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "product.json").write_text("{}")
        path = own / number / ".hydra" / "config.yaml"
        text = path.read_text().replace("engine: native", "engine: vllm")
        path.write_text(text.replace("python: null", "python: gone/bin/python"))
    for rank in (None, 513):
        rule = rf"^rank={rank}: the mean has rank {rank or 600}, and vLLM.* at most 512\. Set rank=512, or mean=false"
        with pytest.raises(ConfigError, match=rule):
            combine(CombineConfig(str(own), trials=["0", "2"], rank=rank, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_samples_of_a_trial_that_draws_none_and_trials_of_other_utterances(sweep: Path, tmp_path: Path) -> None:
    own = shutil.copytree(sweep, tmp_path / "sweep")
    config = own / "1" / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("text_top_k: 5", "text_top_k: 1"))
    with pytest.raises(ConfigError, match=r"samples=3: trial 1 decodes with decoding\.text_top_k=1"):
        combine(CombineConfig(str(own), trials=["1"], samples=3))
    path = own / "3" / "utterances.jsonl"
    last = read_jsonl(path)[-1]["id"]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["id"] != last))
    with pytest.raises(DataError, match=r"does not have the utterances of trial .*Name trials of one evaluation set"):
        combine(CombineConfig(str(own), trials=["1", "3"], mean=False))
