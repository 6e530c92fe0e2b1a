"""What identifies an adapter and a transcript, and what is found again instead of made again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.config.train import (
    DataConfig,
    DecodingConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainerConfig,
)
from kimi_audio_ft.decoding.transcripts import EvaluationSet, decode
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.trial import Trial

ANSWERS = ("今天", "天气", "好", "我们")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes without recordings: what matters here needs no encoder."""
    from kimi_audio_ft.base import Base

    first, rng = Base(ModelConfig(dtype="float32"), "none").tokens.first, random.Random(3)
    path = tmp_path_factory.mktemp("data") / "some.tokens.jsonl"
    rows = []
    for number, answer in enumerate(ANSWERS):
        codes = [first + rng.randrange(100) for _ in range(6 + number)]
        conversation = [
            {"role": "user", "message_type": "text", "content": "转写"},
            {"role": "user", "message_type": "audio", "audio_tokens": codes},
            {"role": "assistant", "message_type": "text", "content": answer},
        ]
        rows.append({"id": f"u{number}", "task_type": "understanding", "conversation": conversation})
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(manifest: Path) -> TrainConfig:
    """A training of two steps without features."""
    return TrainConfig(
        data=DataConfig(str(manifest), str(manifest), features="none", batch_size=4),
        model=ModelConfig(dtype="float32"),
        lora=LoraConfig(r=2),
        optim=OptimConfig(lr=1e-2),
        decoding=DecodingConfig(text_temperature=0.0, max_new_tokens=4),
        trainer=TrainerConfig(max_epochs=2, accumulate=1, progress=False),
    )


def test_evaluation_set(config: TrainConfig) -> None:
    evaluation = Trial(config).evaluation
    assert evaluation.references == {f"u{number}": answer for number, answer in enumerate(ANSWERS)}
    assert evaluation.audio == dict.fromkeys(evaluation.references)
    around = evaluation.surroundings
    assert around.audio == evaluation.audio and around.recordings == {key: key for key in evaluation.references}
    assert around.seconds == {"u0": 0.48, "u1": 0.56, "u2": 0.64, "u3": 0.72}  # 6 to 9 codes of 80 ms


def test_an_evaluation_set_is_held_while_nothing_about_it_changes(
    config: TrainConfig, manifest: Path, tmp_path: Path
) -> None:
    own = tmp_path / "eval.jsonl"
    recording = tmp_path / "a.wav"
    recording.write_bytes(b"1")
    text = manifest.read_text(encoding="utf-8")
    own.write_text(text.replace('"message_type": "audio"', '"message_type": "audio", "content": "a.wav"', 1), "utf-8")
    changed = replace(config, data=replace(config.data, eval_manifest=str(own)))
    first = Trial(changed).evaluation
    assert Trial(changed).evaluation is first
    recording.write_bytes(b"22")
    second = Trial(changed).evaluation
    assert second.identity != first.identity
    own.write_text(own.read_text(encoding="utf-8").replace("今天", "明天啊"), encoding="utf-8")
    third = Trial(changed).evaluation
    assert third.references["u0"] == "明天啊" and third.identity != second.identity
    prompted = replace(changed, data=replace(changed.data, prompt="别的"))
    assert Trial(prompted).evaluation.identity != third.identity
    assert Trial(prompted).evaluation.reference_identity == third.reference_identity != second.reference_identity


@pytest.mark.parametrize("path", ["", "nope.jsonl", "."])
def test_manifest_that_is_no_file_is_named_by_its_option(config: TrainConfig, path: str) -> None:
    trial = Trial(config)
    with pytest.raises(ConfigError, match=r"^data\.eval_manifest='.*must name a pretokenized manifest.*tokenize"):
        EvaluationSet(trial.base, replace(config.data, eval_manifest=path))
    other = Trial(replace(config, data=replace(config.data, train_manifest=path)))
    with pytest.raises(ConfigError, match=r"^data\.train_manifest='"):
        _ = other.training_signature


def test_adapter_is_fitted_once(config: TrainConfig) -> None:
    points: list[dict[str, Any]] = []
    first = Trial(config).adapter(points.append)
    assert not first.reused and first.facts["steps"] == 2
    again_points: list[dict[str, Any]] = []
    again = Trial(config).adapter(again_points.append)
    assert again.reused and again.signature == first.signature and again.folder == first.folder
    assert again_points == points and points  # the curves of a reused adapter are told as well
    assert sorted(path.name for path in first.folder.glob("adapter*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_adapter_depends_on_the_training_data_wherever_they_lie(
    config: TrainConfig, manifest: Path, tmp_path: Path
) -> None:
    own = Trial(config).training_signature
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(manifest.read_bytes())
    assert Trial(replace(config, data=replace(config.data, train_manifest=str(moved)))).training_signature == own
    moved.write_text(manifest.read_text(encoding="utf-8").replace("今天", "明天"), encoding="utf-8")
    assert Trial(replace(config, data=replace(config.data, train_manifest=str(moved)))).training_signature != own


@pytest.fixture
def signatures(config: TrainConfig) -> Callable[..., list[str]]:
    """Signatures of the base's transcripts under decoding settings."""

    def make(seed: int = 1, **settings: Any) -> list[str]:
        trial = Trial(config)
        return decode(trial.base, trial.evaluation, replace(config.decoding, **settings), seed, None).signatures

    return make


def test_greedy_decoding_is_done_once_whatever_would_be_drawn(signatures: Callable[..., list[str]]) -> None:
    (own,) = signatures()
    assert signatures(text_top_k=50) == signatures(repeats=4) == signatures(seed=9) == signatures(batch_size=1) == [own]
    assert signatures(max_new_tokens=3) != [own]
    assert signatures(text_repetition_penalty=1.3) != [own]


def test_samplings_differ_by_seed_and_repeat_and_are_kept_one_by_one(signatures: Callable[..., list[str]]) -> None:
    sampling = {"text_temperature": 1.0, "text_top_k": 0}
    two = signatures(repeats=2, **sampling)
    three = signatures(repeats=3, **sampling)
    assert three[:2] == two and len(set(three)) == 3
    assert not set(signatures(seed=2, repeats=2, **sampling)) & set(two)
    assert len(list((store.store_root() / "transcript").glob("[!.]*"))) == 5


def test_transcripts_of_an_adapter_and_of_the_base_are_told_apart(config: TrainConfig) -> None:
    trial = Trial(config)
    adapter = trial.adapter()
    base = decode(trial.base, trial.evaluation, config.decoding, 1, None)
    adapted = decode(trial.base, trial.evaluation, config.decoding, 1, (adapter.signature, adapter.folder))
    assert base.signatures != adapted.signatures
    for transcripts in (base, adapted):
        assert [set(answers) for answers in transcripts.hypotheses] == [{"u0", "u1", "u2", "u3"}]
    # the base is as it was, although an adapter has been put on and taken off
    shutil.rmtree(store.product_path("transcript", base.signatures[0]))
    assert decode(trial.base, trial.evaluation, config.decoding, 1, None).hypotheses == base.hypotheses
