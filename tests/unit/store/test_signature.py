"""Content addresses: what changes a product's name and what does not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.canonical import EXCLUDED, transcript_form
from kimi_audio_ft.config.train import AugmentConfig, TrainConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import transcript_signatures
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.trial import Trial

ADAPTER_GROUPS = ("data", "model", "lora", "optim", "trainer")

# Other valid values of the fields for which the type alone does not give one.
OTHER: dict[str, Any] = {
    "data.features": "cached",
    "data.prompt": "转录",  # the manifest's own
    "data.audio_root": "/",
    "data.train_subset": 16,  # all that there are
    "data.train_weights": [1.0],  # of one manifest: as without
    "data.test_manifest": "test.tokens.jsonl",
    "data.guard_manifests": {"general": "general.tokens.jsonl"},
    "data.max_batch_tokens": 40,
    "data.num_workers": 1,
    "data.pass_positions": 512,
    "data.max_length": 8000,  # at most the model's positions
    "data.augment.speeds": [1.0, 1.1],
    "data.augment.gains_db": [0.0, 3.0],
    "data.augment.noise_snr": [5.0, 30.0],
    "data.augment.noise_probability": 0.25,
    "data.augment.room_probability": 0.25,
    "model.dtype": "bfloat16",
    "model.attention": "eager",
    "model.kernels": "plain",
    "model.path": str(TINY_MODEL),
    "model.revision": "9a82a84c",
    "model.speech_tokenizer": str(TINY_MODEL / "glm-4-voice-tokenizer"),
    "lora.target_modules": "attention",
    "lora.init_lora_weights": "gaussian",
    "optim.schedule": "constant",
    "scoring.rank_by": "mer",
    "optim.warmup_ratio": 0.5,
    "optim.loss_average": "token",
    "model.quantization": "nf4",
    "trainer.accelerator": "auto",
    "trainer.strategy": "ddp",
    "trainer.devices": 1,
    "trainer.deepspeed": {"wall_clock_breakdown": True},
    "trainer.max_steps": 3,
    "decoding.text_repetition_penalty": 1.2,
    "decoding.engine": "native",  # any other needs an environment of its own
    "decoding.vllm.python": "python",
    "decoding.vllm.options": {"tensor_parallel_size": 2},
    "decoding.vllm.url": "http://127.0.0.1:8000",
    "logger.kind": "csv",
    "logger.project": "other",
    "logger.entity": "team",
    "logger.name": "a",
    "logger.group": "b",
    "logger.notes": "c",
    "logger.mode": "offline",
    "logger.tags": ["a"],
    "scoring.fillers": ["嗯"],
    "scoring.terms": __file__,
    "scoring.names": __file__,
}


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a config's fields; a field that is added later is there at once."""
    for field in dataclasses.fields(value):
        name, inner = f"{prefix}{field.name}", getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{name}.")
        else:
            yield name, inner


def changed(config: Any, name: str, value: Any) -> Any:
    """A checked copy of a config with one dotted field changed."""
    first, _, rest = name.partition(".")
    return dataclasses.replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


def other_value(name: str, value: Any) -> Any:
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    raise AssertionError(f"{name}={value!r}: give this new field another valid value in OTHER")


def names_of(*groups: str) -> list[str]:
    return [name for name, _ in leaves(TrainConfig()) if name.split(".")[0] in groups]


@pytest.fixture(scope="module")
def copies(coded_manifests: Path, sounds: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same manifests, noises and rooms at another place."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(coded_manifests, folder, dirs_exist_ok=True)
    for name, place in sounds.items():
        shutil.copytree(place, folder / name)
    return {f"data.{name}_manifest": str(folder / f"{name}.jsonl") for name in ("train", "eval")} | {
        f"data.augment.{name}": str(folder / name) for name in sounds
    }


@pytest.fixture
def signatures(
    trial_config: Callable[..., TrainConfig], copies: dict[str, str], sounds: dict[str, Any]
) -> Callable[[str], tuple[str, str]]:
    """Training signatures before and after one field is changed, in a config in which every field has a part."""
    config = trial_config(data={"augment": AugmentConfig(time_masks=1, channel_masks=1, **sounds)})

    def both(name: str) -> tuple[str, str]:
        value = copies.get(name) or other_value(name, dict(leaves(config))[name])
        return Trial(config).training_signature, Trial(changed(config, name, value)).training_signature

    return both


@pytest.mark.parametrize("name", [*names_of(*ADAPTER_GROUPS), "seed"])
def test_every_field_of_the_training_counts_unless_it_is_excluded(
    signatures: Callable[[str], tuple[str, str]], name: str
) -> None:
    before, after = signatures(name)
    excluded = any(name == entry or name.startswith(f"{entry}.") for entry in EXCLUDED["adapter"])
    assert (before == after) == excluded


@pytest.mark.parametrize("name", [*names_of("decoding", "logger", "scoring"), "baseline"])
def test_decoding_scoring_and_tracking_never_retrain(
    signatures: Callable[[str], tuple[str, str]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No signature depends on whether the package of an option is installed.
    monkeypatch.setattr("kimi_audio_ft.config.train.needs_package", lambda *_: None)
    before, after = signatures(name)
    assert before == after


def test_excluded_names_exist() -> None:
    known = set(names_of(*ADAPTER_GROUPS, "decoding")) | {"data.augment"}
    for stage, names in EXCLUDED.items():
        assert set(names) <= known, stage


def test_every_group_is_covered() -> None:
    """A new config group has to be put on one side or the other."""
    groups = {field.name for field in dataclasses.fields(TrainConfig)}
    prompts = {"prompt"}  # in the identities of the manifests: tests/numerics/test_hotwords.py
    assert groups == {*ADAPTER_GROUPS, *prompts, "seed", "decoding", "logger", "scoring", "baseline"}


def test_the_same_step_on_more_processes_is_the_same_training(trial_config: Callable[..., TrainConfig]) -> None:
    def name(**trainer: Any) -> str:
        return Trial(trial_config(trainer=trainer)).training_signature

    alone = name(accumulate=4)
    assert name(accumulate=2, strategy="ddp", devices=2) == alone == name(accumulate=1, strategy="fsdp", devices=4)
    assert name(accumulate=4, strategy="ddp", devices=2) == name(accumulate=8) != alone


class TestInputs:
    def test_a_changed_manifest(self, trial_config: Callable[..., TrainConfig], coded_manifests: Path) -> None:
        config = trial_config()
        before = Trial(config).training_signature
        shorter = coded_manifests.parent / "shorter.jsonl"
        lines = (coded_manifests / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        shorter.write_text("".join(lines[:-1]), encoding="utf-8")
        assert Trial(changed(config, "data.train_manifest", str(shorter))).training_signature != before

    def test_a_part_of_the_manifest(self, trial_config: Callable[..., TrainConfig]) -> None:
        def name(**data: Any) -> str:
            return Trial(trial_config(data=data)).training_signature

        half = name(train_subset=8)
        assert name() == name(train_subset=16) == name(train_subset=16, train_subset_seed=2) != half
        assert name(train_subset=8, train_subset_seed=2) != half != name(train_subset=7)

    def test_the_training_set_does_not_matter_to_decoding(self, trial_config: Callable[..., TrainConfig]) -> None:
        def name(**data: Any) -> list[str]:
            trial = Trial(trial_config(data=data))
            return transcript_signatures(trial.evaluation, DecodingRequest(trial.config.decoding, 1), None)

        assert name(train_subset=8, train_subset_seed=2) == name() != name(prompt="请听写。")

    def test_other_noises_and_rooms(
        self, trial_config: Callable[..., TrainConfig], sounds: dict[str, Any], tmp_path: Path
    ) -> None:
        def name(**augment: Any) -> str:
            return Trial(trial_config(data={"augment": AugmentConfig(**augment)})).training_signature

        before = [name(), *(name(**{kind: folder}) for kind, folder in sounds.items()), name(**sounds)]
        assert len(set(before)) == 4
        for kind, folder in sounds.items():
            shutil.copytree(folder, tmp_path / kind)
            next((tmp_path / kind).iterdir()).unlink()
            assert name(**sounds | {kind: str(tmp_path / kind)}) not in before

    def test_a_changed_base(self, trial_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
        base = tmp_path / "base"
        shutil.copytree(TINY_MODEL, base)
        config = trial_config(model={"path": str(base)})
        before = Trial(config).training_signature
        assert before == Trial(trial_config()).training_signature
        description = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(description | {"rms_norm_eps": 1e-5}))
        assert Trial(config).training_signature != before

    def test_encoders_count_only_where_features_are_used(
        self, trial_config: Callable[..., TrainConfig], tmp_path: Path
    ) -> None:
        base = tmp_path / "base"
        shutil.copytree(TINY_MODEL, base)

        def of(features: str) -> str:
            return Trial(trial_config(model={"path": str(base)}, data={"features": features})).training_signature

        before = {features: of(features) for features in ("none", "cached", "online")}
        path = base / "whisper-large-v3" / "config.json"
        path.write_text(path.read_text() + "\n")
        assert {features for features in before if of(features) != before[features]} == {"cached", "online"}


@pytest.mark.parametrize(
    "other",
    [
        {"text_temperature": 0.6},
        {"text_top_k": 4},
        {"text_repetition_penalty": 1.1},
        {"text_repetition_window_size": 8},
        {"max_new_tokens": 19},
    ],
)
def test_decoding_settings_that_change_results(trial_config: Callable[..., TrainConfig], other: dict[str, Any]) -> None:
    """Requests of another seed, batch size and more repeats are in tests/unit/decoding/test_transcripts.py."""
    decoding = {"max_new_tokens": 18, "text_temperature": 0.5, "text_repetition_penalty": 1.2}
    trials = [Trial(trial_config(decoding=decoding | more)) for more in ({}, other)]
    plain, changed_one = (
        transcript_signatures(one.evaluation, DecodingRequest(one.config.decoding, 1), None) for one in trials
    )
    assert plain != changed_one


def test_batch_size_of_decoding_counts_in_bf16_only(trial_config: Callable[..., TrainConfig]) -> None:
    """With the default, signatures are those from before it counted."""

    def form(dtype: str, size: int) -> dict[str, Any]:
        config = trial_config(model={"dtype": dtype}, decoding={"batch_size": size})
        return transcript_form(config.data, config.model, config.decoding)

    assert form("float32", 8) == form("float32", 3)
    assert form("bfloat16", 8) != form("bfloat16", 3)
    assert "batch_size" not in form("bfloat16", 8)["decoding"]
