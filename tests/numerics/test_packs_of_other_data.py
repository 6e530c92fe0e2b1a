"""Packs whose members have data of their own, or recordings that the frozen encoder hears once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.config.train import AugmentConfig, TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.model import num_audio_tokens
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.model.whisper import WhisperFeatureExtractor
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.training.checkpoint import resume_step
from kimi_audio_ft.trial import Trial
from tests.numerics.pack_lab import NAMES, Lab
from tests.sameness import assert_same, assert_within_rounding, differing
from tests.unit.conftest import answer, audio, line

Config = Callable[..., TrainConfig]
SEEDS = {name: {"seed": seed, "lora": {"lora_dropout": 0.2}} for seed, name in enumerate(NAMES, start=1)}


def test_other_seeds_have_other_data(trial_config: Config, lab: Lab) -> None:
    """Start, order and masks of each are its own seed's. Padding to a neighbour's length only changes rounding."""
    config = trial_config(trainer={"max_steps": 7})
    lab.run(config, NAMES, SEEDS)
    folders = [(lab.folder(name), lab.alone(config, name, SEEDS)) for name in NAMES]
    for together, alone in folders:
        assert_within_rounding(together, alone)
    assert any(differing(*pair) for pair in folders), "their lengths differ"


def test_in_equal_shapes_it_is_exact(trial_config: Config, lab: Lab, tmp_path: Path) -> None:
    """Conversations of one length, in other orders; also resumed alone, and with a last step of unequal parts."""
    manifest = _equally_long(tmp_path / "equal.jsonl")
    data = {"train_manifest": manifest, "batch_size": 1}
    config = trial_config(data=data, trainer={"max_steps": 7, "accumulate": 3})
    calls = iter(range(1, 99))
    with pytest.raises(Interrupted):
        lab.run(config, NAMES, SEEDS, should_stop=lambda: next(calls) == 4)
    assert resume_step([lab.place / "pack" / f"{name}.work" for name in NAMES]) == 4
    lab.run(config, ["a8"], SEEDS)
    lab.run(config, ["a4", "a16"], SEEDS)
    for name in NAMES:
        assert_same(lab.folder(name), lab.alone(config, name, SEEDS))


def test_unequal_epochs_are_refused(trial_config: Config, lab: Lab) -> None:
    """A budget of tokens cuts some orders into more batches than others; ``steps_by_epoch`` says so beforehand."""
    config = trial_config(data={"max_batch_tokens": 120, "batch_size": 4}, trainer={"accumulate": 1})
    by_seed = {}
    for seed in range(1, 7):
        data = Trial(replace(config, seed=seed)).data
        data.setup()
        by_seed[seed] = data.steps_by_epoch(2)
    other = next(seed for seed in by_seed if by_seed[seed] != by_seed[1])
    with pytest.raises(UserError, match="optimizer steps by epoch differ"):
        lab.run(config, ["a4", "a8"], {"a8": {"seed": other}})


@pytest.mark.slow
def test_each_seed_draws_its_own_noise_and_goes_on_with_it(
    trial_config: Config, lab: Lab, recordings: str, sounds: dict[str, Any]
) -> None:
    """Together and interrupted as alone and in one go; what is encoded for one serves the others."""
    data = {"train_manifest": recordings, "eval_manifest": recordings, "features": "online", "batch_size": 2}
    augment = AugmentConfig(**sounds, noise_probability=0.7)
    config = trial_config(data=data | {"augment": augment}, trainer={"max_steps": 4, "accumulate": 1})
    calls = iter(range(1, 99))
    with pytest.raises(Interrupted):
        lab.run(config, ["a4", "a8"], SEEDS, should_stop=lambda: next(calls) == 3)
    assert resume_step([lab.place / "pack" / f"{name}.work" for name in ("a4", "a8")]) == 3
    lab.run(config, ["a4", "a8"], SEEDS)
    for name in ("a4", "a8"):
        assert_within_rounding(lab.folder(name), lab.alone(config, name, SEEDS))


def _equally_long(path: Path) -> str:
    first, rng = read_config(TINY_MODEL).kimia_token_offset, np.random.default_rng(1)
    write_jsonl(
        path, [line(f"c{i}", audio("", audio_tokens=_codes(rng, first, 9)), answer("今天会议")) for i in range(16)]
    )
    return str(path)


def _codes(rng: np.random.Generator, first: int, count: int) -> list[int]:
    return [int(code) for code in rng.integers(first, first + 100, count)]


@pytest.fixture
def recordings(tmp_path: Path) -> str:
    """Four recordings of noise with the right number of codes."""
    first, rng, lines = read_config(TINY_MODEL).kimia_token_offset, np.random.default_rng(2), []
    for index, seconds in enumerate((0.5, 0.9, 0.7, 1.1)):
        samples = (0.1 * rng.standard_normal(int(16_000 * seconds))).astype(np.float32)
        soundfile.write(tmp_path / f"{index}.wav", samples, 16_000)
        codes = _codes(rng, first, num_audio_tokens(len(samples)))
        lines.append(line(f"r{index}", audio(f"{index}.wav", audio_tokens=codes), answer("你好今天")))
    write_jsonl(tmp_path / "recordings.jsonl", lines)
    return str(tmp_path / "recordings.jsonl")


@pytest.mark.parametrize("adaptor", [False, True])
def test_the_frozen_encoder_runs_once_for_all(
    trial_config: Config, lab: Lab, recordings: str, adaptor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where adapters sit in front of the layers, in the adaptor that takes its features."""
    data = {"train_manifest": recordings, "eval_manifest": recordings, "features": "online", "batch_size": 2}
    config = trial_config(data=data, trainer={"max_steps": 2, "accumulate": 1, "max_epochs": 1})
    target = {"target_modules": "decoder_and_adaptor"} if adaptor else {}
    changes = {"a4": {"lora": {"lora_dropout": 0.2}}, "a8": {"lora": {"lora_dropout": 0.2, **target}}}
    calls: list[int] = []
    encode = WhisperFeatureExtractor.forward
    monkeypatch.setattr(
        WhisperFeatureExtractor,
        "forward",
        lambda self, waveforms, *rest: calls.append(len(waveforms)) or encode(self, waveforms, *rest),
    )
    lab.run(config, ["a4", "a8"], changes)
    together = list(calls)
    assert together == [2, 2, 4], "two steps of two recordings, and the validation"
    for name in ("a4", "a8"):
        calls.clear()
        alone = lab.alone(config, name, changes)
        assert calls == together
        assert_same(lab.folder(name), alone)
