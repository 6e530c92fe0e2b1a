"""Configs that give the same bytes have one signature, and those beside them, which do not, have another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.canonical import decoding_form
from kimi_audio_ft.config.train import AugmentConfig, DecodingConfig, ModelConfig, TrainConfig, VllmConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import transcript_signatures
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]
Changes = dict[str, Any]
VOCABULARY = Base(ModelConfig(), "none").tokens.end
UP, GATE = (rf"model\.layers\.\d+\.mlp\.{name}_proj" for name in ("up", "gate"))


def lora(targets: Any = "decoder", **fields: Any) -> Changes:
    return {"lora": {"target_modules": targets, **fields}}


def data(**fields: Any) -> Changes:
    return {"data": fields}


def augment(**fields: Any) -> Changes:
    return {"data": {"augment": AugmentConfig(**fields)}}


def trainer(**fields: Any) -> Changes:
    return {"trainer": fields}


def optim(**fields: Any) -> Changes:
    return {"optim": fields}


def decoding(**fields: Any) -> Changes:
    return {"decoding": {"text_temperature": 0.5} | fields}


def by_vllm(python: str = sys.executable, **options: Any) -> Changes:
    return {"engine": "vllm", "vllm": VllmConfig(python, options)}


# By what they show: two configs of one result, and one of another. 16 conversations, in batches of 2 and steps of two
# batches, are 4 steps an epoch, for 2 epochs; every conversation has the prompt 转录.
TRAININGS: dict[str, tuple[Changes, Changes, Changes]] = {
    "order of targets": (lora(["attention", "mlp"]), lora(["mlp", "attention"]), lora(["mlp"])),
    "a list of one target": (lora("decoder"), lora(["decoder"]), lora(["attention"])),
    "a target given twice": (lora(["mlp"]), lora(["mlp", "mlp", UP]), lora(["mlp", "attention"])),
    "a preset and its parts": (lora("decoder"), lora(["attention", "mlp"]), lora("decoder_and_branch")),
    "expressions of one set": (lora(f"{UP}|{GATE}"), lora([GATE, UP]), lora(f"{UP}|{GATE}|model.embed_tokens")),
    "alpha": (lora(), lora(lora_alpha=4), lora(lora_alpha=2)),
    "alpha under rsLoRA": (lora(r=4), lora(r=4, lora_alpha=4, use_rslora=True), lora(r=4, use_rslora=True)),
    "the manifest's prompt": (data(), data(prompt="转录"), data(prompt="请听写。")),
    "a subset of all": (data(), data(train_subset=16, train_subset_seed=2), data(train_subset=15)),
    "a limit above the longest": (data(), data(max_length=100), data(max_length=30)),
    "a batch of all": (data(batch_size=16), data(batch_size=99), data(batch_size=15)),
    "tokens of a batch": (data(), data(max_batch_tokens=99), data(max_batch_tokens=40)),
    "tokens of batches of one": (
        data(batch_size=1), data(batch_size=1, max_batch_tokens=1), data(batch_size=2, max_batch_tokens=1),
    ),
    "a speed given twice": (augment(), augment(speeds=[1.0, 1.0]), augment(speeds=[1.1])),
    "how often a speed is given": (
        augment(speeds=[0.9, 1.1]), augment(speeds=[0.9, 1.1]), augment(speeds=[0.9, 1.1, 1.1]),
    ),
    "order of speeds": (augment(speeds=[0.9, 1.1]), augment(speeds=[0.9, 1.1]), augment(speeds=[1.1, 0.9])),
    "a gain given twice": (augment(gains_db=[-3.0]), augment(gains_db=[-3, -3]), augment(gains_db=[-3.0, 3.0])),
    "frames without masks": (augment(), augment(time_mask_frames=9), augment(time_masks=1)),
    "channels without masks": (augment(), augment(channel_mask_width=9), augment(channel_masks=1)),
    "frames of masks": (augment(time_masks=1), augment(time_masks=1), augment(time_masks=1, time_mask_frames=9)),
    "channels of masks": (
        augment(channel_masks=1), augment(channel_masks=1), augment(channel_masks=1, channel_mask_width=9),
    ),
    "noise and rooms without recordings": (
        augment(),
        augment(noise_snr=[0.0, 1.0], noise_probability=0.0, room_probability=0.0, versions=5),
        augment(time_masks=1),
    ),
    "epochs that steps cut": (
        trainer(max_steps=3), trainer(max_steps=3, max_epochs=9), trainer(max_steps=2, max_epochs=9),
    ),
    "epochs given as steps": (trainer(), trainer(max_steps=8, max_epochs=9), trainer(max_steps=8, max_epochs=1)),
    "steps that epochs cut": (trainer(), trainer(max_steps=99), trainer(max_steps=7)),
    "a step of all batches": (trainer(accumulate=8), trainer(accumulate=99), trainer(accumulate=7)),
    "a warm-up of one step": (optim(), optim(warmup_ratio=0.1), optim(warmup_ratio=0.2)),
    "a schedule with time to decay": (optim(), optim(schedule="linear"), optim(schedule="cosine")),
    "a schedule without": (
        trainer(max_steps=2), trainer(max_steps=2) | optim(schedule="cosine"), trainer(max_steps=2) | optim(lr=1.0),
    ),
    "a zero of either sign": (optim(), optim(weight_decay=-0.0), optim(weight_decay=0.1)),
}  # fmt: skip
# Tokens that cut batches leave their number open, between the 4 of 16 conversations by 4 and 16 of one.
OPEN = {"batch_size": 4, "max_batch_tokens": 60}
OPEN_TRAININGS: dict[str, tuple[Changes, Changes, Changes]] = {
    "steps of full batches": (trainer(max_steps=2), trainer(max_steps=2, max_epochs=9), trainer(max_steps=3)),
    "steps that may not be there": (trainer(max_steps=5), trainer(max_steps=5), trainer(max_steps=5, max_epochs=9)),
    "more steps than any batches": (trainer(), trainer(max_steps=16), trainer(max_steps=15)),
    "a warm-up of unknown steps": (optim(), optim(), optim(warmup_ratio=0.04)),
}
TRANSCRIPTS: dict[str, tuple[Changes, Changes, Changes]] = {
    "greedy": (
        decoding(text_temperature=0.0), decoding(text_temperature=1e-7, text_top_k=9), decoding(text_temperature=1e-5),
    ),
    "the likeliest token": (decoding(text_temperature=-0.0), decoding(text_top_k=1), decoding(text_top_k=2)),
    "all tokens": (
        decoding(text_top_k=0),
        decoding(text_top_k=VOCABULARY),
        decoding(text_top_k=VOCABULARY - 1),
    ),
    "a window without a penalty": (
        decoding(),
        decoding(text_repetition_window_size=2),
        decoding(text_repetition_window_size=2, text_repetition_penalty=1.1),
    ),
    "a window of all tokens": (
        decoding(max_new_tokens=8),
        decoding(max_new_tokens=8, text_repetition_penalty=1.1, text_repetition_window_size=7),
        decoding(max_new_tokens=8, text_repetition_penalty=1.1, text_repetition_window_size=6),
    ),
    "the engine": (decoding(), decoding(vllm=VllmConfig(options={"seed": 1})), decoding(**by_vllm())),
    "how vLLM is started": (
        decoding(**by_vllm()), decoding(**by_vllm("/bin/sh"), batch_size=3), decoding(**by_vllm(quantization="fp8")),
    ),
    "the manifest's prompt": (data(), data(prompt="转录"), data(prompt="请听写。")),
    "how it was trained": (data(), data(max_length=30, batch_size=1), data(features="cached")),
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    """Manifests and checkpoint are looked at once for all pairs."""
    return Inputs()


def agree(name: Callable[[Changes], str], three: tuple[Changes, Changes, Changes]) -> None:
    first, same, other = map(name, three)
    assert first == same != other


@pytest.mark.parametrize("three", TRAININGS.values(), ids=TRAININGS)
def test_trainings(trial_config: Config, inputs: Inputs, three: tuple[Changes, Changes, Changes]) -> None:
    agree(lambda changes: Trial(trial_config(**changes), inputs=inputs).training_signature, three)


def test_trainings_with_noise_or_rooms(trial_config: Config, inputs: Inputs, sounds: dict[str, str]) -> None:
    """Half of the utterances get them unless it is said; what is said of the other does not count."""
    noise, room = ({f"{kind}_folder": sounds[f"{kind}_folder"]} for kind in ("noise", "room"))
    unused: dict[str, Any] = {"room_folder": sounds["room_folder"], "room_probability": 0.0}
    for three in (
        (augment(**noise), augment(**noise, noise_probability=0.5), augment(**noise, noise_probability=0.4)),
        (augment(**noise), augment(**noise, **unused), augment(**noise, **room)),
        (augment(**room), augment(**room, noise_snr=[1.0, 2.0]), augment(**room, versions=3)),
    ):
        agree(lambda changes: Trial(trial_config(**changes), inputs=inputs).training_signature, three)


@pytest.mark.parametrize("three", OPEN_TRAININGS.values(), ids=OPEN_TRAININGS)
def test_trainings_of_an_unknown_number_of_steps(
    trial_config: Config, inputs: Inputs, three: tuple[Changes, Changes, Changes]
) -> None:
    agree(lambda changes: Trial(trial_config(data=OPEN, **changes), inputs=inputs).training_signature, three)


@pytest.mark.parametrize("three", TRANSCRIPTS.values(), ids=TRANSCRIPTS)
def test_transcripts(trial_config: Config, inputs: Inputs, three: tuple[Changes, Changes, Changes]) -> None:
    def name(changes: Changes) -> str:
        trial = Trial(trial_config(**changes), inputs=inputs)
        return transcript_signatures(trial.evaluation, DecodingRequest(trial.config.decoding, 1), "a1")[0]

    agree(name, three)


def test_a_form_is_its_own_form() -> None:
    setting = DecodingConfig(text_top_k=1, repeats=3, text_repetition_penalty=1.2, max_new_tokens=9)
    assert decoding_form(decoding_form(setting)) == decoding_form(setting) == DecodingConfig(0.0, 0, max_new_tokens=9)


# Everything that decides nothing, written in another way at once.
SAME_BYTES: dict[str, tuple[Changes, Changes]] = {
    "of several steps an epoch": (
        trainer(max_epochs=1),
        {
            **lora([GATE, "mlp", "attention"], lora_alpha=4),
            **data(prompt="转录", train_subset=16, max_length=100, max_batch_tokens=90),
            **optim(warmup_ratio=0.1),
            **trainer(max_epochs=9, max_steps=4),
        },
    ),
    "of one step an epoch": (
        {**lora(r=4), **data(batch_size=16), **trainer(accumulate=1)},
        {
            **lora("decoder", r=4, lora_alpha=4, use_rslora=True),
            **data(batch_size=99, max_batch_tokens=9999),
            **optim(schedule="cosine"),
            **trainer(accumulate=9, max_steps=5),
        },
    ),
}


@pytest.mark.parametrize("two", SAME_BYTES.values(), ids=SAME_BYTES)
@pytest.mark.slow
def test_one_signature_is_one_adapter(
    trial_config: Config, inputs: Inputs, fit: Callable[..., Any], tmp_path: Path, two: tuple[Changes, Changes]
) -> None:
    names, adapters = set(), set()
    for number, changes in enumerate(two):
        config = trial_config(**changes)
        names.add(Trial(config, inputs=inputs).training_signature)
        fit(config, str(number))
        adapters.add((tmp_path / str(number) / "adapter" / "adapter_model.safetensors").read_bytes())
    assert len(names) == len(adapters) == 1
