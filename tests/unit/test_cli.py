"""The frame of every command: settings, exit codes, and who is told about an error."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from errno import EACCES, EEXIST, ENOSPC, EPERM
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.cli import about_overrides, command, explain, option_names, to_settings, unknown_option
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import config_dir
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.train import record_failure

REPOSITORY = Path(__file__).resolve().parents[2]
TOKENIZE = ("tokenize",)
TRAIN = ("train",)
GIVEN = "manifests=[a.jsonl]"


def refuse(config: Any) -> None:
    raise UserError("here: wrong. Mend it")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            EACCES,
            "error: corpus: cannot be opened (Permission denied). Check its permissions, or run in another folder",
        ),
        (
            ENOSPC,
            "error: corpus: cannot be written (No space left on device). Free space there, or run in another folder",
        ),
        (EEXIST, "error: corpus: cannot be written (File exists). Run in another folder"),
    ],
)
def test_a_closed_folder_and_a_full_one_are_told_apart(
    start: Callable[..., None], capsys: pytest.CaptureFixture[str], number: int, said: str
) -> None:
    def fail(config: Any) -> None:
        raise OSError(number, os.strerror(number), "corpus")

    with pytest.raises(SystemExit):
        start(command(*TOKENIZE)(fail), GIVEN)
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_permission_for_no_file_is_not_told_as_one_for_a_folder(start: Callable[..., None]) -> None:
    def fail(config: Any) -> None:
        raise PermissionError(EPERM, os.strerror(EPERM))  # as of a signal to another user's process

    with pytest.raises(PermissionError):
        start(command(*TOKENIZE)(fail), GIVEN)


def test_task_is_given_its_checked_settings(start: Callable[..., None]) -> None:
    seen: list[TokenizeConfig] = []
    start(command(*TOKENIZE)(seen.append), GIVEN, "batch_size=3")
    assert [type(settings) for settings in seen] == [TokenizeConfig]
    assert seen[0].manifests == ["a.jsonl"] and seen[0].batch_size == 3 and seen[0].model.path == "tiny"


def test_alpha_follows_the_rank_that_is_asked_for(start: Callable[..., None]) -> None:
    seen: list[TrainConfig] = []
    main = command(*TRAIN)(seen.append)
    start(main, "lora.r=32")
    start(main, "lora.r=32", "lora.lora_alpha=8")
    assert [settings.lora.lora_alpha for settings in seen] == [64, 8]


def test_flag_of_a_sweep_may_stand_between_overrides(start: Callable[..., None], tmp_path: Path) -> None:
    seen: list[TrainConfig] = []
    main = command(*TRAIN)(seen.append)
    start(main, "seed=5", "-m", "lora.r=2,4", "hydra.sweep.dir=sweep")
    assert [(settings.seed, settings.lora.r) for settings in seen] == [(5, 2), (5, 4)]


def test_error_of_the_users(start: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        start(command(*TOKENIZE)(refuse), GIVEN)
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "error: here: wrong. Mend it\n")


def test_traceback_on_request(start: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_AUDIO_FT_TRACEBACK", "1")
    with pytest.raises(UserError, match="here: wrong"):
        start(command(*TOKENIZE)(refuse), GIVEN)


def test_bug_is_not_dressed_up(start: Callable[..., None]) -> None:
    def broken(config: Any) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        start(command(*TOKENIZE)(broken), GIVEN)


@pytest.mark.parametrize("overrides", [[GIVEN], ["batch_size=0"], []], ids=["task", "check", "required"])
def test_failure_is_told_before_anything_else(
    start: Callable[..., None], overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[dict[str, Any], Exception]] = []
    main = command(*TOKENIZE, on_failure=lambda config, error: told.append((config, error)))(refuse)
    with pytest.raises(SystemExit):
        start(main, *overrides)
    ((config, error),) = told
    assert isinstance(error, UserError) and config["model"]["path"] == "tiny"
    assert str(error) in capsys.readouterr().err


def test_interruption(start: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        start(command(*TOKENIZE)(interrupted), GIVEN, "hydra.run.dir='two words'")
    assert end.value.code == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "Resume with:"
    assert said[-1].startswith("  python ") and shlex.split(said[-1])[-2:] == [GIVEN, "hydra.run.dir='two words'"]


def test_bug_in_one_trial_of_a_sweep(
    start: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken_at_rank_2(config: TrainConfig) -> float:
        if config.lora.r == 2:
            raise ZeroDivisionError("a bug")
        (tmp_path / "sweep" / "1" / "seen").touch()
        return 0.5

    main = command(*TRAIN, on_failure=record_failure, endings=SweepReport)(broken_at_rank_2)
    with pytest.raises(SystemExit) as end:
        start(main, "-m", "lora.r=2,4", "hydra.sweep.dir=sweep")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "1 of 2 trials failed" in error and "sweep/0/train.log (r=2): a bug" in error
    assert (tmp_path / "sweep" / "1" / "seen").exists()
    failure = json.loads((tmp_path / "sweep" / "0" / "failure.json").read_text(encoding="utf-8"))
    assert failure["error_type"] == "ZeroDivisionError" and failure["params"]["lora.r"] == 2
    assert failure["command"] == "python -m kimi_audio_ft.train lora.r=2 hydra.mode=RUN"
    # a bug's traceback is in the trial's log, since the sweep's end does not show it
    assert "broken_at_rank_2" in (tmp_path / "sweep" / "0" / "train.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_reader_that_has_seen_enough(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kimi_audio_ft.tokenize", GIVEN, "--cfg", "job"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


# Hydra's complaints in words: the option, what is wrong, and what to write.


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """Composes the config of ``train`` with overrides."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)

    def make(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return compose("train", overrides=list(overrides))

    return make


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rank=4", "lora.rank: there is no such option. Did you mean lora.r?"),
        ("trainer.epochs=1", "trainer.epochs: there is no such option. Did you mean trainer.max_epochs"),
        ("lora.deep.r=1", "lora.deep.r: there is no such option. Did you mean lora.r"),
        ("optim.learning_rate=1", "optim.learning_rate: there is no such option. Did you mean optim.lr?"),
        ("hydra.launcher.pack_sise=2", "there is no such option. Did you mean hydra.launcher.pack_size or"),
        ("sweep.r=2", "Trials that are no product of values: hydra/sweeper=listed hydra.sweeper.trials=FILE"),
        ("experiment=demo", "experiment: there is no such option. A study is chosen by +experiments=NAME"),
        ("frobnicate=1", "frobnicate: there is no such option. --help lists all options"),
        ("hydra.sweeper.finalists=3", "finalists: there is no such option. It comes with hydra/sweeper=finalists"),
        ("lora=nope", "lora=nope: there is no such choice. lora can be attention, decoder, decoder_ad"),
        ("lora.r=1.5", "lora.r=1.5: Value '1.5' of type 'float' could not be converted to Integer"),
        ("lora.r=null", "lora.r=null: field 'lora.r' is not Optional"),
        ("data.augment.speeds=1.1", "data.augment.speeds=1.1: must be a list. Write 'data.augment.speeds=[1.1]'"),
        ("data.augment.speeds=[x]", "data.augment.speeds=[x]: Value 'x' of type 'str'"),
        ("data.prompt=转写", "'data.prompt=\"转写\"'"),
        ("scoring.fillers=[嗯, 呃]", '\'scoring.fillers=["嗯","呃"]\''),
        ("data.eval_manifest=a=b", "'data.eval_manifest=\"a=b\"'"),
        ("data.guard_manifests={a: b, 会议: a.jsonl}", "such as 会议, must be of English letters, digits and _. Write"),
        ("lora.r=2,", "lora.r=2,: cannot be read, it ends in a comma. Write lora.r=A,B"),
        ("lora.r", "'lora.r' cannot be read. Write OPTION=VALUE"),
        ("lora=8", "a group takes the name of one of its choices, such as lora=decoder"),
        ("=4", "must be a string"),
        ("", "'' cannot be read. Write OPTION=VALUE"),
        ("experiments=demo", "+experiments=demo"),
    ],
)
def test_message(composed: Callable[..., DictConfig], override: str, message: str) -> None:
    with pytest.raises(Exception) as caught:
        composed(override)
    assert about_overrides(caught.value)
    told = explain(caught.value, TrainConfig)
    assert message in told
    assert "object_type" not in told and "Config search path" not in told


def test_suggested_quotes_are_right(composed: Callable[..., DictConfig]) -> None:
    assert composed('data.prompt="请转写（全部）。"').data.prompt == "请转写（全部）。"
    assert composed('scoring.fillers=["嗯","呃"]').scoring.fillers == ["嗯", "呃"]


def test_option_that_hydra_would_add(composed: Callable[..., DictConfig]) -> None:
    assert to_settings(composed("lora.r=4")).lora.r == 4
    for override in ("+lora.rank=4", "+data.augment.pitch=1", "+new.group=1"):
        with pytest.raises(UserError, match=f"^{override[1:-2]}: there is no such option"):
            to_settings(composed(override))


def test_deepspeeds_own_config_takes_any_key(composed: Callable[..., DictConfig]) -> None:
    key = "trainer.deepspeed.zero_optimization.offload_param.device"
    config = composed("trainer=deepspeed_zero3", f"+{key}=cpu")
    assert to_settings(config).trainer.deepspeed["zero_optimization"]["offload_param"] == {"device": "cpu"}
    assert config.trainer.deepspeed.zero_optimization == {
        **composed("trainer=deepspeed_zero3").trainer.deepspeed.zero_optimization, "offload_param": {"device": "cpu"},
    }  # fmt: skip
    with pytest.raises(Exception) as caught:
        composed("trainer=deepspeed_zero3", f"{key}=cpu")
    assert explain(caught.value, TrainConfig) == f"{key}: is not set yet. Write +{key}=VALUE to add a key"


def test_other_errors_are_not_about_the_command_line() -> None:
    assert not about_overrides(ValueError("a bug")) and not about_overrides(KeyError("lora"))


def test_config_without_a_schema_is_left_alone() -> None:
    assert to_settings(OmegaConf.create({"anything": 1})) == {"anything": 1}


def test_names_of_all_options() -> None:
    names = option_names(TrainConfig)
    assert {"lora.r", "data.augment.speeds", "seed"} <= set(names)
    assert "data" not in names and "data.augment" not in names


def test_same_last_word_elsewhere_is_offered() -> None:
    assert unknown_option("r", ["lora.r", "seed"]).endswith("Did you mean lora.r?")
    assert os.linesep not in unknown_option("x", ["seed"])


def test_choice_of_a_plugin_that_is_not_installed() -> None:
    error = MissingConfigException("Could not find it", "hydra/sweeper/optuna", ["basic", "halving"])
    assert explain(error, TrainConfig) == (
        'hydra/sweeper=optuna: there is no such choice. It comes with pip install -e ".[optuna]"'
    )


def test_tokenize_names_its_own_word_for_a_folder(
    start: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        start(command(*TOKENIZE)(refuse), "data=my/data")
    told = "error: data: there is no such option. Write manifests=FOLDER for what prepare has written\n"
    assert capsys.readouterr().err == told
