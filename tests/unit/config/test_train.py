"""Every rule of the configs: the message names the option, the value and the rule."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from typing import Any

import pytest

from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.train import (
    AugmentConfig,
    DataConfig,
    DecodingConfig,
    EvaluateConfig,
    LoggerConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    ScoringConfig,
    TrainConfig,
    TrainerConfig,
    VllmConfig,
)
from kimi_audio_ft.errors import ConfigError

CLASSES = {
    "data.augment.": AugmentConfig,
    "data.": DataConfig,
    "model.": ModelConfig,
    "lora.": LoraConfig,
    "optim.": OptimConfig,
    "decoding.vllm.": VllmConfig,
    "decoding.": DecodingConfig,
    "trainer.": TrainerConfig,
    "logger.": LoggerConfig,
    "scoring.": ScoringConfig,
    "": TokenizeConfig,
}
ONE = "must be 1 or more"
ZERO = "must be 0 or more"
NAN = math.nan

# Option, values that are refused, and words of the rule.
REFUSED: list[tuple[str, list[Any], str]] = [
    ("data.augment.speeds", [[0.4], [2.1], [1.0, NAN], []], "speed factor lies between 0.5 and 2.0|at least one"),
    ("data.augment.gains_db", [[-41.0], [21.0], []], "between -40 and 20 dB|at least one"),
    ("data.augment.time_masks", [-1], ZERO),
    ("data.augment.channel_masks", [-1], ZERO),
    ("data.augment.time_mask_frames", [0], ONE),
    ("data.augment.channel_mask_width", [0], ONE),
    ("data.augment.noise_folder", ["no/such", "", __file__], "must name a folder of recordings.*no such folder"),
    ("data.augment.room_folder", ["no/such", "", __file__], "must name a folder of recordings.*no such folder"),
    (
        "data.augment.noise_snr",
        [[], [5.0], [20.0, 5.0], [-21.0, 0.0], [0.0, 61.0], [NAN, NAN]],
        "between -20 and 60 dB",
    ),
    ("data.augment.noise_probability", [-0.1, 1.1, NAN, 0.5], "between 0 and 1|Give data.augment.noise_folder=FOLDER"),
    ("data.augment.room_probability", [-0.1, 1.1, NAN, 0.5], "between 0 and 1|Give data.augment.room_folder=FOLDER"),
    ("data.augment.versions", [0], ONE),
    ("data.features", ["yes", ""], "must be one of cached, online, none"),
    ("data.max_length", [0, -1], ONE),
    ("data.batch_size", [0], ONE),
    ("data.max_batch_tokens", [0], ONE),
    ("data.num_workers", [-1, True, 1.5, "all", None], "must be auto, or 0 or more"),
    ("data.pass_positions", [0, -1, True, 1.5, "all", None], "must be auto, or 1 or more"),
    ("model.gradient_checkpointing", ["yes", 1, None], "must be true, false or auto"),
    ("data.prompt", ["", "  \n"], "must not be empty"),
    ("model.path", [""], "must name a checkpoint folder"),
    ("model.dtype", ["float16", "bf16"], "must be one of float32, bfloat16"),
    ("model.attention", ["flash"], "must be one of sdpa, eager, flash_attention_2"),
    ("lora.r", [0, -8], "rank must be 1 or more"),
    ("lora.lora_alpha", [0, -1], ONE),
    ("lora.lora_dropout", [-0.1, 1.0, NAN], r"must be in \[0, 1\)"),
    ("lora.target_modules", ["", [], ["decoder", ""], 5, None, [3]], "a preset, a regular expression.*or a list"),
    ("lora.init_lora_weights", ["pissa", "pissa_niter_4", "olora", "5", ""], "one of default, gaussian, orthogonal"),
    ("optim.lr", [0.0, -1e-5, NAN], "must be greater than 0"),
    ("optim.weight_decay", [-0.1, NAN], ZERO),
    ("optim.beta1", [-0.1, 1.0, NAN], r"must be in \[0, 1\)"),
    ("optim.beta2", [-0.1, 1.0, NAN], r"must be in \[0, 1\)"),
    ("optim.eps", [0.0, NAN], "must be greater than 0"),
    ("optim.schedule", ["exponential"], "must be one of linear, cosine, constant"),
    ("optim.warmup_ratio", [-0.1, 1.0, NAN], r"must be in \[0, 1\)"),
    ("optim.max_grad_norm", [-1.0, NAN], ZERO),
    ("optim.loss_average", ["batch"], "must be one of sample, token"),
    ("decoding.text_temperature", [-0.1, NAN], r"must be 0 \(greedy\) or more"),
    ("decoding.text_top_k", [-1], r"must be 0 \(all\) or more"),
    ("decoding.text_repetition_penalty", [0.9, 0.0, NAN], r"must be 1 \(off\) or more"),
    ("decoding.text_repetition_window_size", [0], ONE),
    ("decoding.max_new_tokens", [0], ONE),
    ("decoding.repeats", [0], ONE),
    ("decoding.batch_size", [0, -1, True, 1.5, "all", None], "must be auto, or 1 or more"),
    ("decoding.engine", ["sglang", ""], "must be one of native, vllm"),
    (
        "decoding.vllm.options",
        [{"model": "a"}, {"max_lora_rank": 8}],
        "(model|max_lora_rank) follows from other options",
    ),
    (
        "decoding.vllm.url",
        [
            "",
            "localhost:8000",
            "http://",
            "http://a:99999",
            "http://a b",
            "http://user@a",
            "http://a/?b",
            "ftp://a",
        ],
        "must be the address of a vLLM server. Write decoding.vllm.url=http://HOST:PORT;.*VLLM_API_KEY",
    ),
    ("decoding.vllm.timeout", [0.0, -1.0, NAN, math.inf], "must be greater than 0 and at most 86400"),
    ("trainer.max_epochs", [0], ONE),
    ("trainer.max_steps", [0, -2], r"must be -1 \(no limit\) or 1 or more"),
    ("trainer.accumulate", [0], ONE),
    ("trainer.log_every", [0], ONE),
    ("trainer.val_every", [-1], ZERO),
    ("trainer.save_every", [0], ONE),
    ("trainer.save_keep", [0], ONE),
    ("trainer.threads", [-1], ZERO),
    ("trainer.accelerator", ["tpu"], "must be one of auto, cpu, gpu"),
    ("trainer.strategy", ["zero2", ""], "must be one of single, ddp, fsdp, deepspeed_zero3"),
    ("trainer.devices", [0, -1, "all", True, 1.5, None], "must be auto, or 1 or more"),
    ("model.quantization", ["int8", ""], "must be one of nf4"),
    ("logger.kind", ["mlflow"], "must be one of wandb, tensorboard, csv, none"),
    (
        "data.train_manifest",
        [[], {"a": "b.jsonl"}, 3, None, ["a.jsonl", ""], ["a.jsonl", "a.jsonl"]],
        "needs at least one manifest|must be a path, or a list of paths|names a manifest twice",
    ),
    ("data.eval_manifest", [[], 3, {"a": 1}], "needs at least one manifest|must be a path, a list of paths"),
    ("data.test_manifest", [""], "must name a manifest. Use null for none"),
    (
        "data.guard_manifests",
        ["a.jsonl", ["a.jsonl"], {"a": ""}, {"a/b": "a.jsonl"}, {"a": "a.jsonl", "b": "a.jsonl"}],
        "must be paths by name. Write 'data.guard_manifests=|the name 'a/b' must be of letters|names a manifest twice",
    ),
    ("model.kernels", ["", "triton"], "must be one of auto, plain, fused"),
    ("data.train_weights", [[], [1.0, 2.0]], "needs one weight for each manifest of data.train_manifest"),
    ("data.train_weights", [[-1.0], [float("nan")], [0.0]], "a weight is 0 or more|leaves nothing to train on"),
    ("data.train_subset", [0, -5], "must be 1 or more. Use null for all conversations"),
    ("logger.mode", ["disabled"], "must be one of auto, online, offline"),
    ("logger.utterance_rows", [-1], ZERO),
    ("scoring.fillers", [["嗯", " "], ["嗯 "], [""]], "must be words without white space"),
    ("scoring.rank_by", ["CER", "ter", ""], "must be one of cer, normalised_cer, mer, wer, pinyin"),
    ("scoring.terms", ["no/such.txt", "."], "must name a text file.*there is no such file"),
    ("scoring.names", ["no/such.txt", "."], "must name a text file.*there is no such file"),
    ("manifests", [[], "", [3]], "must name a folder with a data.yaml, or manifests"),
    ("batch_size", [0], ONE),
    ("readers", [0], ONE),
    ("devices", [0, -1, "all", True, 1.5, None], "must be auto, or 1 or more"),
    ("threads", [-1], ZERO),
]

# Fields of which every value of their type is usable, or is judged where the files are read.
FREE = {
    *("data.allow_overlap", "data.audio_root", "data.bucket_by_length", "data.augment"),
    *("data.train_subset_seed", "model.revision", "model.speech_tokenizer"),
    *("lora.use_rslora", "lora.use_dora", "decoding.vllm", "decoding.vllm.python"),
    *("trainer.deepspeed", "trainer.progress", "logger.project", "logger.entity", "logger.tags", "logger.audio"),
    *("logger.name", "logger.group", "logger.notes", "logger.adapter", "logger.system_metrics"),
    *("scoring.erhua", "scoring.traditional", "scoring.readings"),
    *("out", "audio_root", "model", "features", "progress"),
}


def owner(option: str) -> tuple[type, str]:
    prefix = next(prefix for prefix in CLASSES if option.startswith(prefix))
    return CLASSES[prefix], option.removeprefix(prefix)


@pytest.mark.parametrize(
    ("option", "value", "rule"), [(option, value, rule) for option, values, rule in REFUSED for value in values]
)
def test_refused(option: str, value: Any, rule: str) -> None:
    kind, field = owner(option)
    others = {} if kind is not TokenizeConfig or field == "manifests" else {"manifests": ["a.jsonl"]}
    # A list is judged member by member; the message then names the member.
    shown = "|".join(re.escape(repr(part)) for part in [value, *(value if isinstance(value, list) else [])])
    with pytest.raises(ConfigError, match=rf"^{re.escape(option)}=({shown}): .*({rule})"):
        kind(**others | {field: value})


def test_every_field_is_checked_or_free() -> None:
    fields = {prefix + field.name for prefix, kind in CLASSES.items() for field in dataclasses.fields(kind)}
    checked = {option for option, _, _ in REFUSED}
    assert checked | FREE == fields
    assert not checked & FREE


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (AugmentConfig, {"speeds": [0.5, 2.0], "gains_db": [-40.0, 20.0], "time_mask_frames": 1}),
        (AugmentConfig, {"noise_snr": [-20.0, 60.0], "noise_probability": 0.0, "noise_folder": "/", "versions": 1}),
        (AugmentConfig, {"noise_snr": [7.0, 7.0], "noise_probability": 1.0, "noise_folder": "/"}),
        (DataConfig, {"prompt": None, "max_length": 1, "batch_size": 1, "max_batch_tokens": 1}),
        (LoraConfig, {"r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "target_modules": ["decoder", r"lm_head"]}),
        (OptimConfig, {"beta1": 0.0, "warmup_ratio": 0.0, "max_grad_norm": 0.0, "weight_decay": 0.0}),
        (DecodingConfig, {"text_temperature": 0.0, "text_top_k": 0, "text_repetition_penalty": 1.0}),
        (TrainerConfig, {"max_steps": -1, "max_epochs": 1, "accumulate": 1, "val_every": 0, "threads": 0}),
        (TokenizeConfig, {"manifests": ["a"], "threads": 0, "batch_size": 1}),
    ],
)
def test_the_edges_are_inside(kind: type, fields: dict[str, Any]) -> None:
    made = kind(**fields)
    assert {name: getattr(made, name) for name in fields} == fields


def test_what_vllm_needs_and_cannot_do() -> None:
    def setting(python: str | None = sys.executable, **fields: Any) -> DecodingConfig:
        return DecodingConfig(engine="vllm", vllm=VllmConfig(python), **fields)

    assert setting().require_engine_fits(ModelConfig(), "cached") is None
    assert setting("no/such").vllm.python == "no/such", "stored configs are read where it is not, too"
    for python in (None, ""):
        rule = rf"^decoding\.vllm\.python={python!r}: must name the Python.*docs/recogniser\.md"
        with pytest.raises(ConfigError, match=rule):
            setting(python)
    with pytest.raises(ConfigError, match=r"^decoding\.text_repetition_penalty=1\.1: .*penalises the prompt's tokens"):
        setting(text_repetition_penalty=1.1)
    with pytest.raises(ConfigError, match=r"^decoding\.text_temperature=0\.009: vLLM draws at 0\.01"):
        setting(text_temperature=0.009)
    assert setting(text_temperature=0.01).text_temperature == 0.01
    there = VllmConfig(url="http://127.0.0.1:8000/v1/")
    assert there.url == "http://127.0.0.1:8000"
    for changes, said in (
        ({"python": "p"}, r"decoding\.vllm\.url=.*: runs already, and decoding\.vllm\.python would start another"),
        ({"options": {"seed": 1}}, r"decoding\.vllm\.options=.*: are of a vLLM that is started here"),
    ):
        with pytest.raises(ConfigError, match=said):
            DecodingConfig(engine="vllm", vllm=dataclasses.replace(there, **changes))
    with pytest.raises(ConfigError, match=r"decoding\.vllm\.url=.*: a running vLLM server decodes for `serve` alone"):
        EvaluateConfig(decoding=DecodingConfig(engine="vllm", vllm=there))
    for options in ({"model": ModelConfig(quantization="nf4")}, {"data": DataConfig(features="online")}):
        with pytest.raises(ConfigError, match=r"decoding\.engine=vllm .*decoding\.engine=native"):
            EvaluateConfig(decoding=setting(), **options)


def test_orthogonal_start_needs_an_even_rank() -> None:
    assert LoraConfig(r=4, init_lora_weights="orthogonal").r == 4
    with pytest.raises(ConfigError, match=r"^lora\.r=5: lora\.init_lora_weights=orthogonal needs an even rank"):
        LoraConfig(r=5, init_lora_weights="orthogonal")


def test_alpha_is_twice_the_rank_unless_given() -> None:
    assert [LoraConfig(r=r).lora_alpha for r in (1, 8, 32)] == [2, 16, 64]
    assert LoraConfig(r=8, lora_alpha=8).lora_alpha == 8


def test_defaults_are_the_published_study() -> None:
    config = TrainConfig()
    assert (config.lora.r, config.lora.lora_alpha, config.lora.lora_dropout) == (8, 16, 0.05)
    assert (config.optim.lr, config.trainer.max_epochs, config.trainer.accumulate) == (5e-5, 5, 8)
    assert (config.data.batch_size, config.data.max_length, config.model.dtype) == (1, 8192, "bfloat16")
    assert (config.trainer.log_every, config.trainer.save_every, config.trainer.save_keep) == (50, 1000, 5)
    assert (config.decoding.text_temperature, config.decoding.max_new_tokens) == (0.0, None), "the published code's"
    assert EvaluateConfig().adapter is None


@pytest.mark.parametrize("user", ["", "me"])
def test_a_password_in_an_address_is_refused_and_not_shown(user: str) -> None:
    with pytest.raises(ConfigError, match=r"^decoding.vllm.url='http://[a-z]*:[*]{3}@a': .*VLLM_API_KEY") as error:
        VllmConfig(url=f"http://{user}:secret@a")
    assert "secret" not in str(error.value)


def test_flash_attention_in_float32_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"16 bits only.*Use sdpa, or model\.dtype=bfloat16"):
        ModelConfig(attention="flash_attention_2", dtype="float32")
    ModelConfig(attention="flash_attention_2", dtype="bfloat16")
