"""Training in pieces equals training in one go: after interruptions, and however a step is cut into micro-batches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.trial import Trial
from tests.sameness import assert_same_bits, assert_within_rounding, tensors

Config = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_libraries()


def fit(config: TrainConfig, folder: Path, work: Path) -> dict[str, Any]:
    return Trial(config).fit(folder, work, None)


# Steps: 4 an epoch (8 micro-batches by twos), or 3 with a last one of two micro-batches only.
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "epochs": {},
    "validating_within_epochs": {"trainer": {"val_every": 3, "log_every": 2}},
    "cut_by_max_steps": {"trainer": {"max_steps": 6}},
    "short_last_step": {"trainer": {"accumulate": 3, "log_every": 4}},
    "dora_by_tokens_with_a_worker": {
        "lora": {"use_dora": True},
        "optim": {"loss_average": "token", "schedule": "cosine"},
        "data": {"num_workers": 1},
        "trainer": {"max_steps": 5},
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_resumed_from_any_checkpoint_equals_uninterrupted(trial_config: Config, tmp_path: Path, way: str) -> None:
    """Bit for bit, with dropout and accumulation; the checkpoints lie within epochs, between them and at the end."""
    changes = {group: dict(fields) for group, fields in WAYS[way].items()}
    changes["trainer"] = {"save_every": 1, "save_keep": 99} | changes.get("trainer", {})
    config = trial_config(**changes)
    steps = fit(config, tmp_path / "whole", tmp_path / "work")["steps"]
    checkpoints = sorted((tmp_path / "work").iterdir())
    assert len(checkpoints) == steps
    for checkpoint in checkpoints[1::2] if way != "epochs" else checkpoints:
        work = tmp_path / f"from_{checkpoint.name}"
        shutil.copytree(checkpoint, work / checkpoint.name)
        facts = fit(config, work / "adapter", work)
        assert facts["steps"] == steps
        assert_same_bits(work / "adapter", tmp_path / "whole")


@pytest.fixture(scope="module")
def eight(coded_manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight conversations of very different lengths: each epoch is one step of all of them, however it is cut."""
    lines = (coded_manifests / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:8]
    path = tmp_path_factory.mktemp("eight") / "train.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("average", [pytest.param("sample", marks=pytest.mark.bitwise), "token"])
def test_cutting_a_step_into_micro_batches_changes_nothing(
    trial_config: Config, eight: str, tmp_path: Path, average: str
) -> None:
    """8 x 1, 4 x 2, 3 x 3 (the last of two) and 1 x 8 give one adapter, and one curve, after 5 steps."""
    folders = []
    for size, accumulate in ((8, 1), (4, 2), (3, 3), (1, 8)):
        config = trial_config(
            data={"train_manifest": eight, "batch_size": size},
            lora={"lora_dropout": 0.0},
            optim={"loss_average": average, "lr": 1e-3},
            trainer={"max_epochs": 5, "accumulate": accumulate},
        )
        folders.append(tmp_path / f"{size}x{accumulate}")
        assert fit(config, folders[-1], tmp_path / f"work{size}")["steps"] == 5
    learned = (value for key, value in tensors(folders[0]).items() if "lora_B" in key)
    assert max(float(value.abs().max()) for value in learned) > 1e-3, "it learned"
    for folder in folders[1:]:
        assert_within_rounding(folder, folders[0])


def test_the_two_averages_differ(trial_config: Config, eight: str, tmp_path: Path) -> None:
    """Otherwise the test above would compare one rule with itself."""
    losses = {}
    for average in ("sample", "token"):
        config = trial_config(
            data={"train_manifest": eight, "batch_size": 8},
            optim={"loss_average": average},
            trainer={"max_steps": 1, "accumulate": 1},
        )
        losses[average] = fit(config, tmp_path / average, tmp_path / f"work_{average}")["final_train_loss"]
    assert abs(losses["sample"] - losses["token"]) > 1e-3
