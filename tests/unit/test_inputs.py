"""Files that the trials of a launch read are looked at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft.config.prompt import PromptConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.inputs import Inputs, only_knows_the_demo
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


@pytest.fixture
def config(trial_config: Config, coded_manifests: Path, tmp_path: Path) -> TrainConfig:
    """A config with a manifest of its own."""
    own = tmp_path / "own.jsonl"
    own.write_bytes((coded_manifests / "eval.jsonl").read_bytes())
    return trial_config(data={"train_manifest": str(own), "eval_manifest": str(own)})


def test_trials_with_the_same_inputs_share_them(config: TrainConfig) -> None:
    inputs, other = Inputs(), replace(config, lora=replace(config.lora, r=16), seed=7)
    assert inputs.base(config) is inputs.base(other) is inputs.evaluation(config).base
    assert inputs.evaluation(config) is inputs.evaluation(other)
    assert inputs.base(replace(config, model=replace(config.model, dtype="bfloat16"))) is not inputs.base(config)
    prompted = replace(config, data=replace(config.data, prompt="别的"))
    assert inputs.evaluation(prompted).identity != inputs.evaluation(config).identity
    assert inputs.evaluation(prompted).reference_identity == inputs.evaluation(config).reference_identity
    part = replace(config, data=replace(config.data, train_subset=2))
    assert inputs.evaluation(part) is inputs.evaluation(config)
    assert inputs.training_set(part) != inputs.training_set(config) == inputs.training_set(other)


def test_a_list_much_longer_than_those_of_training_is_told(
    config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "words.txt").write_text("".join(f"词{number}\n" for number in range(21)), encoding="utf-8")
    prompt, inputs = PromptConfig(str(tmp_path / "words.txt"), distractors=10), Inputs()
    for fine in (PromptConfig(), replace(prompt, distractors=11), replace(prompt, retrieve=5)):
        inputs.evaluation(replace(config, prompt=fine))
    assert "prompt.hotwords" not in caplog.text
    told = inputs.evaluation(replace(config, prompt=prompt))
    assert "prompts have all 21 words" in caplog.text and "at most 10" in caplog.text
    assert inputs.evaluation(replace(config, prompt=replace(prompt))) is told


def test_files_are_looked_at_once(config: TrainConfig) -> None:
    inputs, path = Inputs(), Path(config.data.train_manifest)
    first = inputs.training_set(config), inputs.evaluation(config).identity
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    assert (inputs.training_set(config), inputs.evaluation(config).identity) == first
    now = Inputs().training_set(config), Inputs().evaluation(config).identity
    assert now[0] != first[0] and now[1] != first[1]


def test_what_is_evaluated_is_not_trained_on_unless_one_insists(
    config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs()
    for planned in (lambda: inputs.overlap(config), lambda: Trial(config, inputs=inputs).plan):
        with pytest.raises(DataError, match=r"own\.jsonl:1: trains on a recording that is evaluated.* 9 of 9 "):
            planned()
    insisting = replace(config, data=replace(config.data, allow_overlap=True))
    assert inputs.overlap(insisting).facts == {"overlap": {"utterances": 9, "groups": []}}
    assert Trial(insisting, inputs=inputs).plan.adapter == Trial(config, inputs=inputs).training_signature
    lines = [json.loads(line) for line in Path(config.data.train_manifest).read_text(encoding="utf-8").splitlines()]
    parts = []
    for name, some in (("first", lines[:4]), ("rest", lines[4:])):
        write_jsonl(Path(config.data.train_manifest).with_name(f"{name}.jsonl"), [row | {"group": "m"} for row in some])
        parts.append(str(Path(config.data.train_manifest).with_name(f"{name}.jsonl")))
    apart = replace(config, data=replace(config.data, train_manifest=parts[0], eval_manifest=parts[1]))
    for _ in range(2):
        assert inputs.overlap(apart).facts == {"overlap": {"utterances": 0, "groups": ["m"]}}
    assert caplog.text.count("training and evaluation share 1 group(s) ('m')") == 1


def test_what_could_not_be_read_is_looked_at_again(config: TrainConfig) -> None:
    inputs, path = Inputs(), Path(config.data.train_manifest)
    good = path.read_bytes()
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"own\.jsonl:1: "):
        inputs.training_set(config)
    path.write_bytes(good)
    assert inputs.training_set(config) == Inputs().training_set(config)


def test_who_uses_the_embedded_model_on_other_data_is_told_what_it_knows(
    config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs()
    for _ in range(2):
        inputs.evaluation(config)
    assert caplog.text.count("the embedded model only knows the demo's synthetic speech") == 1
    assert "model=kimi_audio_7b_instruct" in caplog.text
    demo = replace(config.data, eval_manifest="outputs/demo/data/eval.tokens.jsonl")
    assert only_knows_the_demo(config.model, demo) is None
    both = replace(demo, eval_manifest=["outputs/demo/data/eval.tokens.jsonl", "mine.jsonl"])
    assert only_knows_the_demo(config.model, both) is not None
    assert only_knows_the_demo(replace(config.model, path="moonshotai/Kimi-Audio-7B"), config.data) is None


def test_a_length_beyond_the_models_positions_is_refused(config: TrainConfig) -> None:
    assert Inputs().training_set(replace(config, data=replace(config.data, max_length=8192)))
    with pytest.raises(ConfigError, match=r"data\.max_length=8193: the model has 8192 positions\. Use at most as many"):
        Inputs().training_set(replace(config, data=replace(config.data, max_length=8193)))


def test_evaluation_says_that_the_length_limits_training_only(
    config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs()
    evaluation = inputs.evaluation(config)
    positions = evaluation.conversations.lengths(evaluation.base.tokenizer)[:, 0]
    assert "limits training only" not in caplog.text
    inputs.evaluation(replace(config, data=replace(config.data, max_length=int(positions.max()) - 1)))
    longest = int((positions == positions.max()).sum())
    assert f"{longest} of {len(positions)} conversations are longer than data.max_length" in caplog.text
