"""Choosing a model chooses all that suits it; an option given by the user wins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from kimi_audio_ft.config.train import EvaluateConfig, TrainConfig
from kimi_audio_ft.paths import config_dir

INSTRUCT = "model=kimi_audio_7b_instruct"
SCHEMAS = {"train": TrainConfig, "evaluate": EvaluateConfig}


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Settings of a command from its command line."""

    def settings(command: str, *overrides: str) -> Any:
        ConfigStore.instance().store(name=f"{command}_schema", node=SCHEMAS[command])
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return OmegaConf.to_object(compose(command, list(overrides)))

    return settings


def test_the_7b_alone_has_its_optimizer_batch_precision_prompt_and_data(composed: Callable[..., Any]) -> None:
    config = composed("train", INSTRUCT)
    assert config.model.path == "moonshotai/Kimi-Audio-7B-Instruct" and config.model.dtype == "bfloat16"
    assert (config.optim.lr, config.optim.schedule, config.optim.warmup_ratio) == (5e-5, "linear", 0.03)
    assert (config.data.batch_size, config.data.max_batch_tokens, config.data.prompt) == (1, 8192, None)
    assert config.data.train_manifest == config.data.eval_manifest == "", "never the demo's"
    assert (config.trainer.max_epochs, config.trainer.accumulate, config.trainer.threads) == (5, 8, 0)
    assert (config.decoding.batch_size, config.model.gradient_checkpointing) == ("auto", "auto")
    assert composed("train", "model=kimi_audio_7b").optim == config.optim


def test_the_embedded_model_keeps_its_own(composed: Callable[..., Any]) -> None:
    config = composed("train")
    assert (config.model.path, config.model.dtype) == ("tiny", "float32")
    assert (config.optim.lr, config.optim.schedule, config.optim.warmup_ratio) == (3e-3, "cosine", 0.1)
    assert (config.data.batch_size, config.data.max_batch_tokens) == (16, 2048)
    assert (config.trainer.max_epochs, config.trainer.accumulate, config.trainer.threads) == (4, 1, 1)
    assert config.data.eval_manifest == "outputs/demo/data/eval.tokens.jsonl"


def test_what_is_given_wins_over_the_models_choice(composed: Callable[..., Any]) -> None:
    config = composed("train", INSTRUCT, "optim=adamw_tiny", "trainer=ddp", "trainer.accumulate=2", "data.batch_size=3")
    assert (config.optim.lr, config.trainer.strategy) == (3e-3, "ddp")
    assert (config.trainer.accumulate, config.data.batch_size) == (2, 3)
    other = composed("train", "recipe=kimi_audio_7b", "recipe/training=kimi_audio_7b", "model.path=/models/mine")
    assert (other.optim.lr, other.trainer.accumulate, other.data.eval_manifest) == (5e-5, 8, "")
    study = composed("train", "+experiments=[report_10k,train_sizes]", INSTRUCT)
    assert (study.trainer.strategy, study.data.train_manifest) == ("ddp", "data/report_10k/train.tokens.jsonl")


def test_evaluation_has_the_models_choice_too(composed: Callable[..., Any]) -> None:
    config = composed("evaluate", INSTRUCT)
    assert (config.data.eval_manifest, config.data.batch_size, config.trainer.threads) == ("", 1, 0)
    assert composed("evaluate").trainer.threads == 1


def test_decoding_is_greedy_outside_the_published_experiments_study(composed: Callable[..., Any]) -> None:
    for command in SCHEMAS:
        assert composed(command, INSTRUCT).decoding.text_temperature == 0
        assert composed(command).decoding.text_temperature == 0
    published = composed("train", "+experiments=report_10k").decoding
    assert (published.text_temperature, published.text_top_k) == (0.3, 5)


def test_the_7bs_next_steps_sweep_the_rates_of_published_lora_results(composed: Callable[..., Any]) -> None:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        study = compose("train", ["+experiments=next_steps"], return_hydra_config=True).hydra.sweeper.params
    rates = [float(rate) for rate in study["optim.lr"].split(",")]
    assert {2e-5, 5e-5, 1e-4, 3e-4, 1e-3} <= set(rates)
