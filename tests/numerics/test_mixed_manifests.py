"""Training on several manifests: alone, in a pack and resumed the adapters are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.training.checkpoint import resume_step
from kimi_audio_ft.trial import Trial
from tests.numerics.pack_lab import NAMES, Lab
from tests.sameness import assert_same, differing

Config = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def halves(coded_manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The training manifest as two, of six and ten conversations."""
    folder = tmp_path_factory.mktemp("halves")
    lines = (coded_manifests / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in (("six", lines[:6]), ("ten", lines[6:])):
        (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    return [str(folder / f"{name}.jsonl") for name in ("six", "ten")]


def mixed(trial_config: Config, halves: list[str], weights: list[float] | None) -> TrainConfig:
    return trial_config(data={"train_manifest": halves, "train_weights": weights})


def test_a_pack_is_its_members_also_resumed(trial_config: Config, lab: Lab, halves: list[str]) -> None:
    config = mixed(trial_config, halves, [0.5, 1.5])
    assert Trial(config).inputs.training_set(config).conversations == 3 + 15
    calls = iter(range(1, 99))
    with pytest.raises(Interrupted):
        lab.run(config, NAMES, {}, should_stop=lambda: next(calls) == 7)
    assert resume_step([lab.place / "pack" / f"{name}.work" for name in NAMES]) == 7
    lab.run(config, ["a8"], {})
    lab.run(config, ["a4", "a16"], {})
    for name in NAMES:
        assert_same(lab.folder(name), lab.alone(config, name, {}))


def test_the_order_of_manifests_and_weights_of_one_change_nothing(
    trial_config: Config, lab: Lab, halves: list[str]
) -> None:
    plain, other = mixed(trial_config, halves, None), mixed(trial_config, halves, [3.0, 1.0])
    same = (mixed(trial_config, halves[::-1], None), mixed(trial_config, halves, [1.0, 1.0]))
    own = Trial(plain).training_signature
    for config in same:
        assert Trial(config).training_signature == own
        assert_same(lab.alone(config, "a4", {}), lab.alone(plain, "a4", {}))
    assert Trial(other).training_signature != own
    assert differing(lab.alone(other, "a4", {}), lab.alone(plain, "a4", {}))
