"""What identifies an adapter and a transcript, and what is found again instead of made again."""

from __future__ import annotations

import json
import random
import shutil
import threading
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
from kimi_audio_ft.errors import ChangedError, ConfigError, UserError
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.outcomes import BASE, Failure, Outcomes
from kimi_audio_ft.paths import TINY_MODEL, store_root
from kimi_audio_ft.scoring.trial_scores import TrialFacts
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.trial import Trial, run

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
        data=DataConfig(str(manifest), str(manifest), allow_overlap=True, features="none", batch_size=4),
        model=ModelConfig(dtype="float32"),
        lora=LoraConfig(r=2),
        optim=OptimConfig(lr=1e-2),
        decoding=DecodingConfig(text_temperature=0.0, max_new_tokens=4),
        trainer=TrainerConfig(max_epochs=2, accumulate=1, progress=False),
    )


def test_evaluation_set(config: TrainConfig) -> None:
    evaluation = Trial(config).evaluation
    assert evaluation.references == {f"u{number}": answer for number, answer in enumerate(ANSWERS)}
    seconds = {"u0": 0.48, "u1": 0.56, "u2": 0.64, "u3": 0.72}  # 6 to 9 codes of 80 ms
    assert evaluation.surroundings == {
        key: {"audio": None, "recording": key, "seconds": length} for key, length in seconds.items()
    }


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
        return decode(trial.evaluation, replace(config.decoding, **settings), seed, None).signatures

    return make


def test_greedy_decoding_is_done_once_whatever_would_be_drawn(signatures: Callable[..., list[str]]) -> None:
    (own,) = signatures()
    assert signatures(text_top_k=50) == signatures(repeats=4) == signatures(seed=9) == signatures(batch_size=1) == [own]
    assert signatures(max_new_tokens=3) != [own]
    assert signatures(text_repetition_penalty=1.3, text_repetition_window_size=2) != [own]


def test_samplings_differ_by_seed_and_repeat_and_are_kept_one_by_one(signatures: Callable[..., list[str]]) -> None:
    sampling = {"text_temperature": 1.0, "text_top_k": 0}
    two = signatures(repeats=2, **sampling)
    three = signatures(repeats=3, **sampling)
    assert three[:2] == two and len(set(three)) == 3
    assert not set(signatures(seed=2, repeats=2, **sampling)) & set(two)
    assert len(list((store_root() / "transcript").glob("[!.]*"))) == 5


def test_transcripts_of_an_adapter_and_of_the_base_are_told_apart(config: TrainConfig) -> None:
    trial = Trial(config)
    adapter = trial.adapter()
    base = decode(trial.evaluation, config.decoding, 1, None)
    adapted = decode(trial.evaluation, config.decoding, 1, (adapter.signature, adapter.folder))
    assert base.signatures != adapted.signatures
    for transcripts in (base, adapted):
        assert [set(answers) for answers in transcripts.hypotheses] == [{"u0", "u1", "u2", "u3"}]
    # the base is as it was, although an adapter has been put on and taken off
    shutil.rmtree(store.product_path("transcript", base.signatures[0]))
    assert decode(trial.evaluation, config.decoding, 1, None).hypotheses == base.hypotheses


@pytest.fixture
def own(config: TrainConfig, manifest: Path, tmp_path: Path) -> TrainConfig:
    """The config with manifests and a checkpoint of its own, which may be changed."""
    train, evaluation = (str(shutil.copy(manifest, tmp_path / name)) for name in ("train.jsonl", "eval.jsonl"))
    base = shutil.copytree(TINY_MODEL, tmp_path / "base")
    data = replace(config.data, train_manifest=train, eval_manifest=evaluation)
    return replace(config, data=data, model=replace(config.model, path=str(base)), baseline=True)


def cut(path: str | Path) -> None:
    """Put a shorter manifest in a manifest's place."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    shorter = Path(path).with_suffix(".new")
    shorter.write_text("".join(lines[:-1]), encoding="utf-8")
    shorter.replace(path)


@pytest.mark.parametrize("changed", ["train_manifest", "eval_manifest", "model.path"])
@pytest.mark.parametrize(("inputs", "whole"), [(None, "trial"), (Inputs(), "sweep")])
def test_what_changes_between_planning_and_training_is_refused(
    own: TrainConfig, changed: str, inputs: Inputs | None, whole: str
) -> None:
    trial = Trial(own, inputs=inputs)
    assert trial.plan.adapter == trial.training_signature
    if changed == "model.path":
        path = Path(own.model.path)
        config = path / "config.json"
        config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    else:
        path = Path(getattr(own.data, changed))
        cut(path)
    message = rf"^{path}: changed while the {whole} ran .*\. Run the command again$"
    with pytest.raises(ChangedError, match=message):
        trial.adapter()
    assert listing() == []
    assert Trial(own).adapter().facts["steps"] == 2, "the command run again makes what is there now"


def test_a_manifest_that_is_replaced_while_it_is_trained_on_is_refused_at_the_end(own: TrainConfig) -> None:
    own = replace(own, trainer=replace(own.trainer, log_every=1))
    trial = Trial(own)
    rows: list[dict[str, Any]] = []

    def replaced(row: dict[str, Any]) -> None:
        if not rows:
            cut(own.data.train_manifest)
        rows.append(row)

    with pytest.raises(ChangedError, match=r"train\.jsonl: changed while the trial ran"):
        trial.adapter(replaced)
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2]
    assert listing() == [] and not store.work_folder("adapter", trial.training_signature).exists()


def test_a_manifest_that_changes_while_another_process_holds_the_lock_is_refused(own: TrainConfig) -> None:
    trial, held = Trial(own), threading.Event()

    def other(name: str) -> None:
        with store.lock("adapter", name):
            held.set()
            cut(own.data.train_manifest)

    thread = threading.Thread(target=other, args=(trial.training_signature,))
    thread.start()
    held.wait()
    with pytest.raises(ChangedError, match=r"train\.jsonl: changed while the trial ran"):
        trial.adapter()
    thread.join()
    assert listing() == []


def facts_of(name: str) -> TrialFacts:
    return TrialFacts(name, f"train {name}", {})


def test_a_job_makes_what_was_planned_for_it(own: TrainConfig, tmp_path: Path) -> None:
    planned = Trial(own, inputs=Inputs())
    expected = run(own, tmp_path / "first", facts_of("first"), "g")
    names = [*planned.plan.transcripts, *planned.plan.base_transcripts]
    assert sorted(path.name for path in (store_root() / "transcript").glob("[!.]*")) == sorted(names)
    Path(own.data.train_manifest).unlink()  # all is in the store, and nothing is derived again
    with planned.given_to_job():
        assert run(own, tmp_path / "again", facts_of("again"), "g") == expected
        other = replace(own, seed=own.seed + 1)
        with pytest.raises(ConfigError, match=r"^data\.train_manifest='"):  # not the planned trial's
            run(other, tmp_path / "other", facts_of("other"), "g")
    with pytest.raises(ConfigError, match=r"^data\.train_manifest='"):
        run(own, tmp_path / "alone", facts_of("alone"), "g")


@pytest.mark.parametrize("unit", ["adapter", BASE])
def test_a_job_does_not_try_again_what_failed_in_its_launch(own: TrainConfig, tmp_path: Path, unit: str) -> None:
    trial = Trial(own, inputs=Inputs())
    if unit == BASE:
        trial.adapter()
    key = BASE if unit == BASE else trial.training_signature
    trial.outcomes = Outcomes({key: Failure.of(UserError("told by the launch"))})
    with trial.given_to_job(), pytest.raises(UserError, match=r"^told by the launch$"):
        run(own, tmp_path / "job", facts_of("job"), "g")
