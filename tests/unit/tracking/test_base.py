from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import LoggerConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.tracking import make_tracker


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def make(tmp_path: Path) -> Any:
    facts: dict[str, Any] = {"trial_name": "r=8", "group": "sweep", "config": {"seed": 1}, "folder": tmp_path}
    return lambda kind: make_tracker(LoggerConfig(kind=kind), **facts)


def test_the_table_is_complete_after_every_point(make: Any, tmp_path: Path) -> None:
    tracker = make("csv")
    tracker.log({"train/loss": 2.5, "train/lr": 1e-3}, step=10)
    assert rows(tmp_path) == [{"step": "10", "train/loss": "2.5", "train/lr": "0.001"}]
    tracker.log({"train/loss": 1.5, "train/lr": 5e-4}, step=20)
    tracker.log({"val/loss": 1.75}, step=20)
    tracker.log({"train/loss": 1.0, "train/lr": 0.0}, step=30)
    tracker.finish({"cer": 0.1}, [])
    assert [row["step"] for row in rows(tmp_path)] == ["10", "20", "20", "30"]
    assert [row["train/loss"] for row in rows(tmp_path)] == ["2.5", "1.5", "", "1.0"]
    assert [row["val/loss"] for row in rows(tmp_path)] == ["", "", "1.75", ""]
    assert [path.name for path in tmp_path.glob("*metrics*")] == ["metrics.csv"]


def test_a_second_attempt_replaces_the_table_of_the_first(make: Any, tmp_path: Path) -> None:
    make("csv").log({"train/loss": 9.0}, step=1)
    make("csv").log({"train/loss": 3.0}, step=1)
    assert rows(tmp_path) == [{"step": "1", "train/loss": "3.0"}]


def test_none_writes_nothing(make: Any, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    tracker = make("none")
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.fail("out of memory")
    tracker.finish({"cer": 0.5}, [])
    assert set(tmp_path.rglob("*")) == before


def test_an_unknown_kind_names_the_option(make: Any) -> None:
    with pytest.raises(UserError, match=r"logger\.kind='mlflow'.*wandb, tensorboard, csv, none"):
        make("mlflow")
