from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from kimi_audio_ft import store
from kimi_audio_ft.cli import to_settings
from kimi_audio_ft.config.commands import CombineConfig, MergeConfig
from kimi_audio_ft.config.train import EvaluateConfig, TrainConfig
from kimi_audio_ft.config.transcribe import TranscribeConfig
from kimi_audio_ft.paths import config_dir
from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import ENGLISH
from multirun_analysis.report.next_steps import edge_values, next_steps
from multirun_analysis.statistics.results import Interval, Needed, Reason
from tests.report_page import printed
from tests.synthetic_sweep import write_yaml

SCHEMAS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "merge": MergeConfig,
    "transcribe": TranscribeConfig,
    "combine": CombineConfig,
}


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """Reads a command as a shell and Hydra do; returns the settings of its runs."""

    def run(command: str) -> list[Any]:
        seen = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True)
        words = seen.stdout.split("\0")[:-1]
        assert words == shlex.split(command) and words[:2] == ["python", "-m"]
        name, overrides = words[2].removeprefix("kimi_audio_ft."), [word for word in words[3:] if word != "-m"]
        ConfigStore.instance().store(name=f"{name}_schema", node=SCHEMAS[name])
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)[0]
        assert len(jobs) == 1 or "-m" in words
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return [to_settings(compose(name, overrides=list(job))) for job in jobs]

    return run


def commands_of(analysis: Analysis) -> list[str]:
    return [command for step in next_steps(analysis, ENGLISH) for command in step.commands]


def test_every_command_runs_as_it_is_written(sweep: Any, composed: Any, private_store: Path) -> None:
    manifest, facts = "会议 [a]/eval=1.jsonl", {"model": "tiny"}
    for number, (rank, cer) in enumerate([(4, 0.4), (8, 0.3)]):
        about = facts | {"signature": f"a{rank}", "eval_manifest": manifest}
        folder = sweep.trial(number, rank=rank, temperature=0.3, cer=cer, **about)
        write_yaml(folder / ".hydra" / "hydra.yaml", {"hydra": {"runtime": {"choices": {"decoding": "sampled"}}}})
        config = {
            "decoding": {"text_temperature": 0.3, "repeats": 3},
            "data": {"prompt": '转写："甲"'},
        }
        write_yaml(folder / ".hydra" / "config.yaml", config | {"trainer": {"max_epochs": 3, "max_steps": -1}})
    adapter = store.product_path("adapter", "a8")
    adapter.mkdir(parents=True)
    analysis = load_sweep(sweep.folder)
    evaluate, transcribe, merge, combine, further = commands_of(analysis)

    (run,) = composed(evaluate)
    assert run.adapter == str(adapter) and run.data.eval_manifest == manifest and run.data.prompt == '转写："甲"'
    assert (run.decoding.text_temperature, run.decoding.text_top_k, run.decoding.repeats) == (0.3, 5, 3)
    (texts,) = composed(transcribe)
    assert (texts.sweep, texts.audio, texts.out) == (str(sweep.folder), ["my/audio"], "outputs/texts/sweep")
    (made,) = composed(merge)
    assert made.adapter == str(adapter) and made.out == "outputs/merged/sweep"
    (combined,) = composed(combine)
    assert (combined.sweep, combined.samples) == (str(sweep.folder), 16)
    ranks = [run.lora.r for run in composed(further)]
    assert ranks == [8, 16, 32] and f"hydra.sweep.dir={sweep.folder}-next" in further
    assert {run.decoding.text_temperature for run in composed(further)} == {0.3}


def test_what_cannot_be_combined_is_not_proposed(sweep: Any) -> None:
    def is_proposed() -> bool:
        return any("kimi_audio_ft.combine" in command for command in commands_of(load_sweep(sweep.folder)))

    folder = sweep.trial(0)
    assert is_proposed()
    sweep.trial(0, params=sweep.params(8, 1e-3, 0.0) | {"decoding.text_top_k": 1})
    assert not is_proposed()
    sweep.trial(0)
    assert is_proposed()
    (folder / "utterances.jsonl").unlink()
    assert not is_proposed()


def test_of_a_sweep_of_evaluate_only_what_runs_is_proposed(sweep: Any, change: Any, composed: Any) -> None:
    """Nothing is combined, no base is asked for by an option of ``train``, and the base alone is no adapter; its trials
    have no config of ``train`` for ``transcribe sweep=``."""
    about = {"params": {"decoding.text_temperature": 0.0}, "command": None, "baseline": False}
    for number, (adapter, cer) in enumerate([("base", 0.5), ("a8", 0.3)]):
        folder = sweep.trial(number, cer=cer, signature=adapter, **about)
        config = {"adapter": adapter, "any_base": False, "seed": 3, "decoding": {"text_temperature": 0.3, "repeats": 2}}
        write_yaml(folder / ".hydra" / "config.yaml", config | {"data": {"prompt": "转写", "audio_root": "my"}})
    overrides = {"hydra": [], "task": ["adapter=null,a8"]}
    about_sweep = {"any_base": False, "hydra": {"overrides": overrides, "job": {"name": "evaluate"}}}
    write_yaml(sweep.folder / "multirun.yaml", about_sweep)

    analysis = load_sweep(sweep.folder)
    assert (analysis.sweep.command or "").startswith("python -m kimi_audio_ft.evaluate -m ")
    assert "without sharing" not in printed(analysis)
    commands = commands_of(analysis)
    modules = [shlex.split(command)[2] for command in commands]
    assert modules == [f"kimi_audio_ft.{name}" for name in ("evaluate", "transcribe", "merge")]
    (texts,) = composed(commands[1])
    assert (texts.adapter, texts.sweep, texts.seed, texts.data.prompt) == ("a8", None, 3, "转写")
    assert (texts.decoding.text_temperature, texts.decoding.repeats) == (0.0, 2)  # as its parameters have it
    change(sweep.folder / "0" / "scores.json", cer=0.1)  # now the base alone is the best
    analysis = load_sweep(sweep.folder)
    assert commands_of(analysis) == [] and "What to do next" in printed(analysis)  # on more recordings
    enough = replace(analysis, statistics=replace(analysis.statistics, reason=Reason.LOWEST))
    assert next_steps(enough, ENGLISH) == [] and "What to do next" not in printed(enough)


@pytest.mark.parametrize("given", [".", "../sweep/0/.."])
def test_the_next_sweep_is_beside_a_folder_without_a_name(
    sweep: Any, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    for number, (rank, cer) in enumerate([(4, 0.4), (8, 0.3)]):
        sweep.trial(number, rank=rank, cer=cer)
    monkeypatch.chdir(sweep.folder)
    *_, further = commands_of(load_sweep(Path(given)))
    assert further.endswith(f" hydra.sweep.dir={sweep.folder}-next")


@pytest.mark.parametrize(
    ("ranks", "best", "further"),
    [
        ((2, 8, 32), 32, [32, 128]),  # 512 lies too far off
        ((8, 16, 32), 32, [32, 64, 128]),
        ((8, 16, 32), 8, [8, 4, 2]),
        ((2, 8, 32), 2, None),  # the next one would be half a rank
        ((8, 16, 32), 16, None),
    ],
)
def test_values_beyond_the_edge_of_the_grid(sweep: Any, ranks: Any, best: int, further: list[int] | None) -> None:
    for number, rank in enumerate(ranks):
        sweep.trial(number, rank=rank, cer=0.2 + 0.01 * abs(rank - best), baseline=False)
    assert edge_values(load_sweep(sweep.folder)) == ({"lora.r": further} if further else {})


def test_distances_and_limits_of_other_numbers(sweep: Any) -> None:
    for number, (temperature, dropout) in enumerate(
        [(0.0, 0.5), (0.1, 0.5), (0.2, 0.5), (0.0, 0.8), (0.1, 0.8), (0.2, 0.8)]
    ):
        params = sweep.params(8, 1e-3, temperature) | {"lora.lora_dropout": dropout}
        sweep.trial(
            number, temperature=temperature, params=params, cer=0.5 - temperature - dropout / 10, baseline=False
        )
    assert edge_values(load_sweep(sweep.folder)) == {"decoding.text_temperature": [0.2, 0.3, 0.4]}


def test_a_value_that_failed_or_was_stopped_was_tried(sweep: Any) -> None:
    for number, rank in enumerate((4, 8)):
        sweep.trial(number, rank=rank, cer=1 / rank, baseline=False)
    sweep.fail(2, rank=16)
    assert not edge_values(load_sweep(sweep.folder))
    stopped = {
        "name": "r=2",
        "signature": "a",
        "overrides": ["lora.r=2"],
        "decision": "stopped",
        "step": 1,
        "score": 1.0,
    }
    more = {"rank": 2, "reason": "rank 2", "num_steps": 9, "time": "", "jobs": 1, "history": []}
    record = {"metric": "cer", "steps_trained": 1, "steps_of_all": 9, "candidates": [stopped | more]}
    sweep.write(sweep.folder / "halving.json", record)
    sweep.trial(0, rank=4, cer=0.01, baseline=False)
    assert not edge_values(load_sweep(sweep.folder))


def test_a_random_search_has_no_edge(sweep: Any) -> None:
    for number, (rank, rate) in enumerate([(4, 1e-3), (8, 2e-3), (16, 3e-3), (32, 4e-3)]):
        sweep.trial(number, rank=rank, rate=rate, baseline=False)
    assert not edge_values(load_sweep(sweep.folder))


@pytest.mark.parametrize(("ending", "said"), [(0.7, True), (0.995, False), (1.1, False)])
def test_a_loss_that_still_falls_asks_for_more_epochs(sweep: Any, composed: Any, ending: float, said: bool) -> None:
    folder = sweep.trial(0)
    write_yaml(folder / ".hydra" / "config.yaml", {"trainer": {"max_epochs": 3, "max_steps": -1}})
    losses = [2.0, 1.0, ending]
    rows = [{"step": 10 * n, "epoch": n, "split": "val", "loss": loss} for n, loss in enumerate(losses, 1)]
    sweep.write_lines(folder / "curves.jsonl", rows)
    found = [command for command in commands_of(load_sweep(sweep.folder)) if "kimi_audio_ft.train" in command]
    assert bool(found) == said
    if said:
        (run,) = composed(found[0])
        assert run.trainer.max_epochs == 6


@pytest.mark.parametrize(
    ("interval", "needed", "said"),
    [
        (Interval(-0.03, 0.01), (180, None), "at least about 180 (1,080 utterances) are needed; there are 20."),
        (Interval(-0.03, 0.01), (9, None), "at least about 21 (126 utterances) are needed; there are 20."),
        (
            Interval(-0.03, 0.01),
            (40, 7),
            "about 7 seeds and 40 recordings (240 utterances) are needed; there are 1",
        ),
        (Interval(-0.03, 0.01), (9, 7), "about 7 seeds and 20 recordings (120 utterances) are needed; there are 1"),
        (Interval(-0.03, 0.01), (10**6, None), "If the gain seen here is the true one, showing it would"),
        (Interval(-0.03, 0.01), (40, 51), "showing it would take more than 100,000 utterances or 50 seeds"),
        (Interval(-0.01, 0.03), None, "No adapter has a lower CER"),
        (None, None, "The base was not scored here"),
    ],
)
def test_what_it_takes_to_prove_a_gain(synthetic: Analysis, interval: Any, needed: Any, said: str) -> None:
    statistics = synthetic.statistics
    assert statistics.gain
    gain = replace(statistics.gain, interval=interval, shown=False)
    more = None
    if needed is not None:
        more = Needed(gain.trial, gain.base, gain.difference, 6 * needed[0], needed[0], 0.8, needed[1])
    base = replace(statistics, gain=gain, gain_needed=more, recommended=gain.base, reason=Reason.KEEP_BASE)
    first = next_steps(replace(synthetic, statistics=base), ENGLISH)[0]
    assert said in first.said and not any("merge" in command for command in first.commands)
