"""Hydra as its users know it: own configs and search paths, help, printed commands, Chinese values, notebooks."""

from __future__ import annotations

import configparser
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra as hydra_itself
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import kimi_audio_ft
from kimi_audio_ft.cli import command
from kimi_audio_ft.cli.arguments import flags_and_overrides
from kimi_audio_ft.cli.help import sentences
from kimi_audio_ft.cli.notebook import overrides_of
from kimi_audio_ft.config.command_line import readable
from kimi_audio_ft.config.schemas import SCHEMAS
from kimi_audio_ft.config.train import LoraConfig, TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.sweep_folder import claim
from kimi_audio_ft.train import record_failure, trial_facts
from multirun_analysis.sweep import collect

REPOSITORY = Path(__file__).resolve().parents[2]
Start = Callable[..., list[TrainConfig]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Runs ``train`` with these arguments in a folder that has ``my/mine.yaml`` and a study; returns its settings."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "experiments").mkdir(parents=True)
    (tmp_path / "my" / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 7\n", encoding="utf-8")
    study = "# @package _global_\nlora: {r: 2}\n"
    (tmp_path / "my" / "experiments" / "ours.yaml").write_text(study, encoding="utf-8")

    def run(*arguments: str) -> list[TrainConfig]:
        seen: list[TrainConfig] = []

        def task(config: TrainConfig) -> float:
            seen.append(config)
            folder = Path(HydraConfig.get().runtime.output_dir)
            facts = trial_facts({"lora": {"r": config.lora.r}, "seed": config.seed})
            (folder / "command.json").write_text(json.dumps(facts.command), encoding="utf-8")
            return 0.5

        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        GlobalHydra.instance().clear()
        command("train", on_failure=record_failure, endings=SweepReport)(task)()
        return seen

    yield run
    GlobalHydra.instance().clear()
    root.handlers[:] = handlers
    root.setLevel(level)


def typed(line: str) -> list[str]:
    """The arguments of a printed command of ``train``."""
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "kimi_audio_ft.train"]
    return words[3:]


OWN = ("--config-dir", "my", "-cn", "mine")


def test_own_primary_config_and_search_path_work_beside_ours(start: Start) -> None:
    (by_name,) = start(*OWN, "+experiments=ours")
    assert (by_name.seed, by_name.lora.r, by_name.model.path) == (7, 2, "tiny")
    (by_path,) = start("hydra.searchpath=[file://my]", "+experiments=ours", "lora=attention")
    assert by_path.lora.r == 2 and by_path.seed == 1
    by_pattern = start("-m", "--config-dir", "my", "+experiments=glob(our*)", "hydra.sweep.dir=sweep")
    assert [one.lora.r for one in by_pattern] == [2]
    (study,) = start("hydra.searchpath=[file://my]", "+experiments=demo", "hydra.mode=RUN")
    assert study.data.train_manifest.startswith("outputs/demo")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {r: 2}", "sets experiments, which is no option. Its first line must be # @package _global_"),
        ("# @package _global_\nlora: {rank: 2}", "lora.rank: there is no such option. Did you mean lora.r?"),
        ("# @package _global_\nlora: {r: x}", "lora.r: Value 'x' of type 'str' could not be converted to Integer"),
    ],
)
def test_an_error_in_an_own_file_names_it(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "my" / "experiments" / "ours.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit):
        start("hydra.searchpath=[file://my]", "+experiments=ours")
    assert capsys.readouterr().err == f"error: experiments/ours: {message}\n"


def test_printed_commands_run_as_printed(start: Start, tmp_path: Path) -> None:
    """A trial repeated alone and the sweep again, from the records, with the flags and options of Hydra's own."""
    before = start("-m", *OWN, "lora.r=2,4", "data.prompt=转写：", "hydra.sweep.dir=sweep", "hydra.job.name=x")
    trial = json.loads((tmp_path / "sweep" / "1" / "command.json").read_text(encoding="utf-8"))
    again = collect(tmp_path / "sweep").command
    assert again is not None and "hydra.job.name=x" in trial and "hydra.sweep" not in trial
    assert start(*typed(trial)) == before[1:]
    assert start(*typed(again)) == before
    plain = start("lora.r=2")
    assert plain[0].seed == 1
    (tmp_path / "my").rename(tmp_path / "conf")  # as the folder of our own is named
    before = start("-m", "--config-path", str(tmp_path / "conf"), "-cn", "mine", "lora.r=2", "hydra.sweep.dir=other")
    trial = json.loads((tmp_path / "other" / "0" / "command.json").read_text(encoding="utf-8"))
    assert before[0].seed == 7 and start(*typed(trial)) == before


def test_interrupted_command_is_printed_whole(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["command", "seed=3", *OWN, "--lora.r=4", "data.prompt=转写"])
    with pytest.raises(SystemExit):
        command("train")(interrupted)()
    line = capsys.readouterr().err.strip().splitlines()[-1].strip()
    (settings,) = start(*typed(line))
    assert (settings.seed, settings.lora.r, settings.data.prompt) == (3, 4, "转写")


def test_folder_of_the_start_is_kept_whatever_chdir_says(start: Start, tmp_path: Path) -> None:
    start("-m", "lora.r=2,4", "hydra.sweep.dir=sweep", "hydra.job.chdir=true", "hydra/launcher=basic")
    assert len(collect(Path("sweep")).trials) == 2
    start("hydra.run.dir=single", "hydra.job.chdir=true")
    assert (tmp_path / "single" / "command.json").is_file() and not (tmp_path / "sweep" / "0" / "sweep").exists()


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("data.prompt=请转写（全部）。", "请转写（全部）。"),
        ("data.audio_root=my/语料 (1)", "my/语料 (1)"),
        ("data.train_manifest=a=b;c#d", "a=b;c#d"),
        ("data.audio_root=Tom's", "Tom's"),
        ("data.train_manifest=[语料/一.jsonl, b.jsonl]", ["语料/一.jsonl", "b.jsonl"]),
        ("data.eval_manifest={a: 语料.jsonl, b: 'c'}", {"a": "语料.jsonl", "b": "c"}),
        ('data.prompt="转写"', "转写"),
        ("data.audio_root=${data.prompt}", None),
    ],
)
def test_values_need_no_second_quoting(typed: str, value: Any) -> None:
    config = kimi_audio_ft.compose([typed])
    found = OmegaConf.select(config, typed.partition("=")[0])
    assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == value


def test_chinese_values_are_swept_and_what_is_not_closed_is_left_alone() -> None:
    assert readable("data.prompt=转写,请听写,plain") == 'data.prompt="转写","请听写",plain'
    assert readable("lora.target_modules=choice(甲,b)") == 'lora.target_modules=choice("甲",b)'
    for wrong in ("lora.target_modules=[甲", 'data.prompt="甲', "data.prompt=${甲", "lora.r=2,", "键=1", "lora.r"):
        assert readable(wrong) == wrong


def test_options_with_dashes_are_options_and_other_flags_are_named() -> None:
    """``--lora.r=8`` is what agents of W&B type."""
    given = ["--lora.r=8", "seed=1", "--config-dir", "my", "--info", "seed=2", "-cn=mine", "--optim.lr=-1"]
    flags, overrides = flags_and_overrides(given)
    assert flags == ["--config-dir", "my", "--info", "all", "-cn=mine"]
    assert overrides == ["lora.r=8", "seed=1", "seed=2", "optim.lr=-1"]
    assert flags_and_overrides(["lora.r=8", "-i"]) == (["-i", "all"], ["lora.r=8"])
    assert flags_and_overrides(["-i", "config", "seed=2"]) == (["-i", "config"], ["seed=2"])
    for flag in ("--lora.r", "-f", "--confg-dir"):
        with pytest.raises(UserError, match=f"^{flag}: there is no such flag. Options are written without dashes"):
            flags_and_overrides([flag, "8"])
    assert flags_and_overrides(["-m", "-m", "seed=1,2"])[0] == ["-m", "-m"]
    for flags, remedy in (
        (["-m", "--cfg", "job"], "Leave out -m to see the config of one"),
        (["-i", "-c=job"], "Give one of them"),
        (["-m", "--run"], "Give one of them"),
        (["-sc", "-m"], "Give one of them"),
    ):
        with pytest.raises(UserError, match=f"only one of these flags can be given. {remedy}"):
            flags_and_overrides(flags)


def test_help_explains_every_option_and_lists_groups_and_studies(
    start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    start("--help", "--config-dir", "my", "lora.r=64", "logger=none")
    said = capsys.readouterr().out
    flat = " ".join(said.split())
    assert "lora.r=64 Rank of the update of every target." in flat
    assert "logger=none or csv, tensorboard, wandb" in flat and "data=demo or manifests, report_10k" in flat
    assert "demo which rank, learning rate and temperature transcribe the synthetic investment meetings best?" in flat
    assert "\n  ours\n" in said and "hydra.launcher.pack_size=auto Adapters that train together at most" in flat
    assert max(map(len, said.splitlines())) <= 120


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_option_has_a_sentence_for_the_help(name: str) -> None:
    said = sentences(SCHEMAS[name])
    plain = [one.name for one in fields(SCHEMAS[name]) if not one.name.startswith("_")]
    groups = {option.partition(".")[0] for option in said if "." in option}
    without = [option for option in plain if option not in groups and not said.get(option)]
    assert without == [] and not any("noqa" in text for text in said.values())
    assert {one.name for one in fields(LoraConfig)} <= {one.removeprefix("lora.") for one in sentences(TrainConfig)}


def test_version_is_this_packages(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    start("--version")
    assert capsys.readouterr().out == f"kimi_audio_ft {kimi_audio_ft.__version__} (Hydra {hydra_itself.__version__})\n"


def test_hydras_own_word_for_a_traceback_is_heard(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which Hydra reads as its own short messages
    with pytest.raises(SystemExit):
        start("lora.r=abc")
    assert capsys.readouterr().err.startswith("error: lora.r=abc: Value 'abc'")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match=r"Error merging override lora\.r=abc"):
        start("lora.r=abc")


def test_console_scripts_are_the_commands_and_complete_options(
    start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    scripts = dict(line.replace(" ", "").split("=") for line in lines)
    assert {f"kimi-audio-ft-{name.replace('_', '-')}" for name in SCHEMAS} <= scripts.keys()
    for place in scripts.values():
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(module), name))
    for line, words in (("lora.r", "lora.r="), ("hydra/sweeper=h", "hydra/sweeper=halving")):
        monkeypatch.setenv("COMP_LINE", f"kimi-audio-ft-train {line}")
        start("-sc", "query=bash")
        assert words in capsys.readouterr().out.split()


def test_a_file_run_by_its_path_says_what_to_type() -> None:
    path = REPOSITORY / "kimi_audio_ft" / "train.py"
    done = subprocess.run([sys.executable, path, "lora.r=4"], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2 and done.stderr.endswith("Write python -m kimi_audio_ft.train\n")
    assert "Traceback" not in done.stderr


# Notebooks.


def test_hydras_own_compose_finds_our_configs() -> None:
    GlobalHydra.instance().clear()
    with hydra_itself.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        assert hydra_itself.compose("train", ["+experiments=demo"]).model.path == "tiny"


def test_a_composed_config_says_what_the_command_line_says() -> None:
    config = kimi_audio_ft.compose(["lora.r=4", "data.prompt=转写"])
    config.optim.lr = 1e-4
    config.data.eval_manifest = {"a": "x.jsonl"}
    assert overrides_of(config, "train") == [
        'data.eval_manifest={a:x.jsonl}', 'data.prompt="转写"', "lora.r=4", "optim.lr=0.0001",
    ]  # fmt: skip
    assert kimi_audio_ft.compose(overrides_of(config, "train")) == config


@pytest.mark.parametrize(
    ("overrides", "command_name", "message"),
    [
        (["lora.rank=4"], "train", "Did you mean lora.r?"),
        (["+lora.rank=4"], "train", "Did you mean lora.r?"),
        (["lora.r=x"], "train", "could not be converted to Integer"),
        (["hydra.run.dir=x"], "train", r"Give main\(config, folder=\.\.\.\) the folder"),
        ([], "sing", "must be one of prepare, tokenize, train"),
    ],
)
def test_a_wrong_override_is_told_when_it_is_composed(overrides: list[str], command_name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kimi_audio_ft.compose(overrides, command=command_name)


def test_main_takes_a_config_and_raises_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[TrainConfig] = []

    def task(config: TrainConfig) -> float:
        seen.append(config)
        if config.lora.r == 3:
            raise UserError("three is no rank")
        return config.optim.lr

    main = command("train")(task)
    config = kimi_audio_ft.compose(["lora.r=2"])
    config.optim.lr = 0.25
    assert main(config, folder=tmp_path / "会议 1") == 0.25 and seen[0].lora.r == 2
    written = OmegaConf.load(tmp_path / "会议 1" / ".hydra" / "overrides.yaml")
    assert written == ["lora.r=2", "optim.lr=0.25"]
    config.lora.r = 3
    with pytest.raises(UserError, match="three is no rank"):
        main(config, folder=tmp_path / "wrong")
    with pytest.raises(UserError, match="takes a config that was composed for train"):
        main({"lora": {"r": 2}})


def test_a_notebooks_cell_that_was_interrupted_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    starts: list[int] = []

    def task(config: TrainConfig) -> float:
        starts.append(config.seed)
        if len(starts) == 1:
            raise KeyboardInterrupt
        return 0.5

    main, config, folder = command("train", endings=SweepReport)(task), kimi_audio_ft.compose(), tmp_path / "trial"
    with pytest.raises(KeyboardInterrupt):
        main(config, folder=folder)
    assert main(config, folder=folder) == 0.5
    with claim(folder), pytest.raises(UserError, match=r"trial: is being run \(pid"):
        main(config, folder=folder)
    config.data.guard_manifests = {"会议": "a.jsonl"}
    with pytest.raises(UserError, match="Write others into a YAML file"):
        main(config, folder=folder)
    assert len(starts) == 2


def test_no_private_name_of_hydra_is_used_but_the_basic_sweepers() -> None:
    """They change between its versions: 1.4 has others."""
    private = re.compile(r"(?:hydra|omegaconf)\._[a-z]\w*[\w.]*|from (?:hydra|omegaconf)[\w.]* import .*\b_\w+")
    packages = (REPOSITORY / name for name in ("kimi_audio_ft", "multirun_analysis"))
    texts = [path.read_text(encoding="utf-8") for package in packages for path in package.rglob("*.py")]
    assert {found for text in texts for found in private.findall(text)} == {
        "hydra._internal.core_plugins.basic_sweeper"
    }
