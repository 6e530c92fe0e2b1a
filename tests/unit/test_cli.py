"""The frame of every command: settings, exit codes, and who is told about an error."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from kimi_audio_ft.cli import command
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.train import record_failure

REPOSITORY = Path(__file__).resolve().parents[2]
TOKENIZE = ("tokenize", ("kimi_audio_ft.config.commands", "TokenizeConfig"))
TRAIN = ("train", ("kimi_audio_ft.config.train", "TrainConfig"))
GIVEN = "manifests=[a.jsonl]"

Main = Callable[[], None]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs a command's function in an empty folder as if these were its arguments."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(os, "environ", os.environ)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("KIMI_AUDIO_FT_ROOT", "")
    monkeypatch.chdir(tmp_path)

    def run(main: Main, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        GlobalHydra.instance().clear()
        main()

    yield run
    GlobalHydra.instance().clear()
    root.handlers[:] = handlers
    root.setLevel(level)


def refuse(config: Any) -> None:
    raise UserError("here: wrong. Mend it")


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
    told: list[tuple[DictConfig, Exception]] = []
    main = command(*TOKENIZE, on_failure=lambda config, error: told.append((config, error)))(refuse)
    with pytest.raises(SystemExit):
        start(main, *overrides)
    ((config, error),) = told
    assert isinstance(error, UserError) and config.model.path == "tiny"
    assert str(error) in capsys.readouterr().err


def test_interruption(start: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        start(command(*TOKENIZE)(interrupted), GIVEN, "hydra.run.dir='two words'")
    assert end.value.code == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "the same command goes on from there:"
    assert said[-1].startswith("  python ") and shlex.split(said[-1])[-2:] == [GIVEN, "hydra.run.dir='two words'"]


def test_bug_in_one_trial_of_a_sweep(
    start: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken_at_rank_2(config: TrainConfig) -> float:
        if config.lora.r == 2:
            raise ZeroDivisionError("a bug")
        (tmp_path / "sweep" / "1" / "seen").touch()
        return 0.5

    main = command(*TRAIN, on_failure=record_failure)(broken_at_rank_2)
    with pytest.raises(SystemExit) as end:
        start(main, "-m", "lora.r=2,4", "hydra.sweep.dir=sweep")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "1 of 2 trials failed" in error and "sweep/0/train.log (lora.r=2): a bug" in error
    assert (tmp_path / "sweep" / "1" / "seen").exists()
    failure = json.loads((tmp_path / "sweep" / "0" / "failure.json").read_text(encoding="utf-8"))
    assert failure["error_type"] == "ZeroDivisionError" and failure["params"]["lora.r"] == 2
    assert failure["command"] == "python -m kimi_audio_ft.train lora.r=2 hydra.mode=RUN"
    # a bug's traceback is in the trial's log, since the sweep's end does not show it
    assert "broken_at_rank_2" in (tmp_path / "sweep" / "0" / "train.log").read_text(encoding="utf-8")


def test_reader_that_has_seen_enough(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kimi_audio_ft.train", "--help"],
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
