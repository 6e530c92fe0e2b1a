"""Canonical forms: configs that provably give the same bytes have one form, and signatures are made of it.

A form leaves out the fields that never change a result (``EXCLUDED``) and has one value where several do the same.
What cannot be proved from the config and the few facts that planning knows keeps its value: a product that is made
twice costs time, and one that is stored under the name of another is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from kimi_audio_ft.config.train import (
    NATIVE,
    AugmentConfig,
    DataConfig,
    DecodingConfig,
    ModelConfig,
    TrainConfig,
    VllmConfig,
)

# Part of the utterances that get noise or a room where a folder is given and no probability.
_USUAL_PART = 0.5
# At or below this temperature the likeliest token is taken, as published.
GREEDY_BELOW = 1e-6

# The batch of bf16 transcripts whose signatures name none: when it began to count, all stored ones had this default.
_UNNAMED_BATCH = 8

# Fields that change where, how fast or how visibly a stage runs, but not its result; and those of inputs, whose
# identities count instead.
_OF_BOTH = (
    "data.train_manifest",
    "data.train_weights",  # in the identity of the training set
    "data.allow_overlap",
    "data.prompt",  # in the identities of the manifests
    "data.train_subset",  # what it selects is among the inputs
    "data.train_subset_seed",
    "data.max_length",  # what it leaves out is not among them
    "data.eval_manifest",
    "data.test_manifest",  # trials see neither this
    "data.guard_manifests",  # nor these
    "data.audio_root",
    "data.num_workers",
    "data.pass_positions",
    "model.path",
    "model.revision",
    "model.speech_tokenizer",
    "model.gradient_checkpointing",
)
EXCLUDED = {
    "adapter": (
        *_OF_BOTH,
        "data.augment.noise_folder",  # what these hold is among the inputs
        "data.augment.room_folder",
        "trainer.strategy",
        "trainer.devices",  # trainer.accumulate here counts the micro-batches of all processes
        "trainer.deepspeed",
        "trainer.accelerator",
        "trainer.threads",
        "trainer.log_every",
        "trainer.val_every",
        "trainer.save_every",
        "trainer.save_keep",
        "trainer.progress",
    ),
    "transcript": (
        *_OF_BOTH,
        "data.batch_size",
        "data.max_batch_tokens",
        "data.bucket_by_length",
        "data.augment",
        "decoding.batch_size",  # see transcript_form for bf16
        "decoding.repeats",  # every repeat is a product of its own
        "decoding.vllm.python",
        "decoding.vllm.url",
        "decoding.vllm.timeout",
    ),
}


@dataclass(frozen=True)
class TrainingSet:
    """The conversations that an adapter is trained on.

    identity: digest of their contents, prompts and recordings, and of how often an epoch takes them.
    conversations: that an epoch takes, each as often as it is taken. longest: positions of the longest one.
    """

    identity: str
    conversations: int
    longest: int


def adapter_form(config: TrainConfig, trained: TrainingSet, targets: str, ranks: int) -> dict[str, Any]:
    """Form of a training.

    Args:
        targets: names the modules that ``lora.target_modules`` matches, however they are written.
        ranks: processes of the training; the size of a step decides its result, not how many share it.
    """
    form = {name: asdict(getattr(config, name)) for name in ("data", "lora", "optim", "trainer")}
    form["model"] = _model(config.model)
    form["data"]["augment"] = _augment(config.data.augment)
    form["data"] |= _batches(config.data, trained)
    form["trainer"] |= _steps(config, form["data"], trained.conversations, ranks)
    form["optim"] |= _rates(config, form["trainer"])
    form["lora"]["target_modules"] = targets
    form["lora"] |= {"lora_alpha": _scale(config), "use_rslora": None}
    return _counted({**form, "seed": config.seed}, EXCLUDED["adapter"])


def transcript_form(data: DataConfig, model: ModelConfig, setting: DecodingConfig) -> dict[str, Any]:
    """Form of a decoding under a setting in its own form."""
    form = {"data": asdict(data), "model": _model(model), "decoding": decoding_fields(setting)}
    counted = _counted(form, EXCLUDED["transcript"])
    if setting.engine == NATIVE and batches_count(model) and setting.batch_size != _UNNAMED_BATCH:
        counted["decoding"]["batch_size"] = setting.batch_size
    return counted


def decoding_fields(setting: DecodingConfig) -> dict[str, Any]:
    """A setting's fields; those of the engine only where it is not the native one, as before there was a choice."""
    fields = asdict(setting)
    return {name: fields[name] for name in fields if setting.engine != NATIVE or name not in ("engine", "vllm")}


def batches_count(model: ModelConfig) -> bool:
    """Whether utterances decoded together may change an answer: rows of a bf16 product depend on their number."""
    return model.dtype != "float32"


def is_greedy(setting: DecodingConfig) -> bool:
    """Whether decoding draws no random number."""
    return setting.text_temperature <= GREEDY_BELOW or setting.text_top_k == 1


def decoding_form(setting: DecodingConfig, vocabulary: float = math.inf) -> DecodingConfig:
    """The setting that is decoded in place of all that choose the same tokens. vocabulary: number of tokens."""
    same: dict[str, Any] = {"vllm": VllmConfig()} if setting.engine == NATIVE else {}
    if is_greedy(setting):
        same |= {"text_temperature": 0.0, "text_top_k": 0, "repeats": 1}
    elif setting.text_top_k >= vocabulary:
        same |= {"text_top_k": 0}
    # The penalty waits for more tokens than its window; the last token is chosen when all others are there.
    longest = math.inf if setting.max_new_tokens is None else setting.max_new_tokens
    if setting.text_repetition_penalty <= 1 or setting.text_repetition_window_size >= longest - 1:
        window = DecodingConfig.text_repetition_window_size
        same |= {"text_repetition_penalty": 1.0, "text_repetition_window_size": window}
    return replace(setting, **same)


def augment_form(augment: AugmentConfig) -> AugmentConfig:
    """The perturbations that are drawn in place of all that are the same.

    Several values have the frequencies and the order in which they are written: both change what is drawn.
    """
    return replace(
        augment,
        speeds=_one_if_equal(augment.speeds),
        gains_db=_one_if_equal(augment.gains_db),
        time_mask_frames=augment.time_mask_frames if augment.time_masks else AugmentConfig.time_mask_frames,
        channel_mask_width=augment.channel_mask_width if augment.channel_masks else AugmentConfig.channel_mask_width,
        **_sounds(augment),
    )


def _sounds(augment: AugmentConfig) -> dict[str, Any]:
    """Fields of noise and rooms: defaults where there is none, as without a folder or with a probability of 0."""
    fields: dict[str, Any] = {}
    for kind in ("noise", "room"):
        folder, probability = getattr(augment, f"{kind}_folder"), getattr(augment, f"{kind}_probability")
        probability = _USUAL_PART if probability is None else probability
        used = folder is not None and probability > 0
        fields |= {f"{kind}_folder": folder if used else None, f"{kind}_probability": probability if used else None}
    plain = AugmentConfig()
    snr = plain.noise_snr if fields["noise_folder"] is None else augment.noise_snr
    some = fields["noise_folder"] is not None or fields["room_folder"] is not None
    return {**fields, "noise_snr": snr, "versions": augment.versions if some else plain.versions}


def warmup_steps(num_steps: int, warmup_ratio: float) -> int:
    """Optimizer steps in which the learning rate rises."""
    return math.ceil(num_steps * warmup_ratio)


def _one_if_equal(values: list[float]) -> list[float]:
    return values[:1] if len(set(values)) == 1 else values


def _augment(augment: AugmentConfig) -> dict[str, Any]:
    """Its form as a dict, without the fields of noise and rooms where there are none, as before these fields."""
    form, plain = asdict(augment_form(augment)), asdict(AugmentConfig())
    of_sounds = {name for name in plain if name.startswith(("noise_", "room_"))} | {"versions"}
    sounds = form["noise_folder"] is not None or form["room_folder"] is not None
    return form if sounds else {name: value for name, value in form.items() if name not in of_sounds}


def _batches(data: DataConfig, trained: TrainingSet) -> dict[str, Any]:
    """``batch_size`` without what no batch can reach; ``max_batch_tokens``, or None where it never cuts a batch."""
    size = min(data.batch_size, trained.conversations)
    longest = round(trained.longest / min(1.0, *data.augment.speeds))  # as the batch plan counts slowed speech
    cuts = size > 1 and longest * size > data.max_batch_tokens
    return {"batch_size": size, "max_batch_tokens": data.max_batch_tokens if cuts else None}


def _steps(config: TrainConfig, batches: Mapping[str, Any], conversations: int, ranks: int) -> dict[str, Any]:
    """Micro-batches of a step; and the number of steps, or what limits it where planning cannot know it."""
    trainer = config.trainer
    fewest = -(-conversations // batches["batch_size"])  # micro-batches of an epoch
    most = conversations if batches["max_batch_tokens"] else fewest
    accumulate = min(trainer.accumulate * ranks, most)
    fewest, most = (trainer.max_epochs * -(-count // accumulate) for count in (fewest, most))  # now optimizer steps
    limit = math.inf if trainer.max_steps == -1 else trainer.max_steps
    if fewest == most or limit <= fewest:
        return {"accumulate": accumulate, "max_epochs": None, "max_steps": min(limit, fewest)}
    return {"accumulate": accumulate, "max_steps": limit if limit < most else None}


def _rates(config: TrainConfig, steps: Mapping[str, Any]) -> dict[str, Any]:
    """Warm-up in steps and the schedule behind it, where the number of steps is known."""
    if steps["max_epochs"] is not None:
        return {}
    warmup = warmup_steps(steps["max_steps"], config.optim.warmup_ratio)
    # The first step after warm-up has the whole rate under every schedule.
    decays = steps["max_steps"] > warmup + 1
    return {"warmup_ratio": None, "warmup": warmup, "schedule": config.optim.schedule if decays else None}


def _scale(config: TrainConfig) -> float:
    """Factor of the adapter's update, as PEFT computes it."""
    lora = config.lora
    assert lora.lora_alpha is not None, "LoraConfig.__post_init__ sets it"
    return lora.lora_alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)


def _model(model: ModelConfig) -> dict[str, Any]:
    """As the device computes by itself, other kernels are not named; those that are chosen round in another way."""
    form = asdict(model)
    if model.kernels == "auto":
        del form["kernels"]
    return form


def _counted(form: Mapping[str, Any], excluded: Iterable[str]) -> dict[str, Any]:
    """A copy of a nested form without the excluded dotted keys; numbers count by value: 1, 1.0 and not -0.0."""
    kept: dict[str, Any] = {}
    for key, value in form.items():
        if key in excluded:
            continue
        if isinstance(value, Mapping):
            inner = [name.removeprefix(f"{key}.") for name in excluded if name.startswith(f"{key}.")]
            kept[key] = _counted(value, inner)
        else:
            kept[key] = [_number(part) for part in value] if isinstance(value, list) else _number(value)
    return kept


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
