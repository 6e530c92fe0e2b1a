"""Hydra's complaints in words: the option, what is wrong, and what to write."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.cli import about_overrides, explain, option_names, refuse_unusable, unknown_option
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import config_dir, project_root


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """Composes the config of ``train`` with overrides."""
    monkeypatch.setenv("KIMI_AUDIO_FT_ROOT", str(project_root()))
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)

    def make(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return compose("train", overrides=list(overrides))

    return make


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rank=4", "lora.rank: there is no such option. Did you mean lora.r or lora.use_dora?"),
        ("trainer.epochs=1", "trainer.epochs: there is no such option. Did you mean trainer.max_epochs"),
        ("lora.deep.r=1", "lora.deep.r: there is no such option. Did you mean lora.r"),
        ("frobnicate=1", "frobnicate: there is no such option. --help lists all options"),
        ("lora=nope", "lora=nope: there is no such choice. lora can be attention, decoder, report"),
        ("lora.r=1.5", "lora.r=1.5: Value '1.5' of type 'float' could not be converted to Integer"),
        ("lora.r=null", "lora.r=null: field 'lora.r' is not Optional"),
        ("data.augment.speeds=1.1", "data.augment.speeds=1.1: must be a list. Write 'data.augment.speeds=[1.1]'"),
        ("data.augment.speeds=[x]", "data.augment.speeds=[x]: Value 'x' of type 'str'"),
        ("data.prompt=转写", "'data.prompt=\"转写\"'"),
        ("scoring.fillers=[嗯, 呃]", '\'scoring.fillers=["嗯","呃"]\''),
        ("data.eval_manifest=a=b", "'data.eval_manifest=\"a=b\"'"),
        ("lora.r=2,", "lora.r=2,: cannot be read, it ends in a comma. Write lora.r=A,B"),
        ("lora.r", "'lora.r' cannot be read. Write OPTION=VALUE"),
        ("lora=8", "a group takes the name of one of its choices, such as lora=decoder"),
        ("=4", "must be a string"),
        ("", "'' cannot be read. Write OPTION=VALUE"),
        ("experiments=demo", "+experiments=demo"),
    ],
)
def test_message(composed: Callable[..., DictConfig], override: str, message: str) -> None:
    with pytest.raises(Exception) as caught:
        composed(override)
    assert about_overrides(caught.value)
    told = explain(caught.value, TrainConfig)
    assert message in told
    assert "object_type" not in told and "Config search path" not in told


def test_suggested_quotes_are_right(composed: Callable[..., DictConfig]) -> None:
    assert composed('data.prompt="请转写（全部）。"').data.prompt == "请转写（全部）。"
    assert composed('scoring.fillers=["嗯","呃"]').scoring.fillers == ["嗯", "呃"]


def test_option_that_hydra_would_add(composed: Callable[..., DictConfig]) -> None:
    refuse_unusable(composed("lora.r=4"))
    for override in ("+lora.rank=4", "+data.augment.pitch=1", "+new.group=1"):
        with pytest.raises(UserError, match=f"^{override[1:-2]}: there is no such option"):
            refuse_unusable(composed(override))


def test_deepspeeds_own_config_takes_any_key(composed: Callable[..., DictConfig]) -> None:
    key = "trainer.deepspeed.zero_optimization.offload_param.device"
    config = composed("trainer=deepspeed_zero3", f"+{key}=cpu")
    refuse_unusable(config)
    assert config.trainer.deepspeed.zero_optimization == {
        **composed("trainer=deepspeed_zero3").trainer.deepspeed.zero_optimization, "offload_param": {"device": "cpu"},
    }  # fmt: skip
    with pytest.raises(Exception) as caught:
        composed("trainer=deepspeed_zero3", f"{key}=cpu")
    assert explain(caught.value, TrainConfig) == f"{key}: is not set yet. Write +{key}=VALUE to add a key"


def test_other_errors_are_not_about_the_command_line() -> None:
    assert not about_overrides(ValueError("a bug")) and not about_overrides(KeyError("lora"))


def test_config_without_a_schema_is_left_alone() -> None:
    refuse_unusable(OmegaConf.create({"anything": 1}))


def test_names_of_all_options() -> None:
    names = option_names(TrainConfig)
    assert {"lora.r", "data.augment.speeds", "seed"} <= set(names)
    assert "data" not in names and "data.augment" not in names


def test_same_last_word_elsewhere_is_offered() -> None:
    assert unknown_option("r", ["lora.r", "seed"]).endswith("Did you mean lora.r?")
    assert os.linesep not in unknown_option("x", ["seed"])


def test_choice_of_a_plugin_that_is_not_installed() -> None:
    error = MissingConfigException("Could not find it", "hydra/sweeper/optuna", ["basic", "halving"])
    assert explain(error, TrainConfig) == (
        'hydra/sweeper=optuna: there is no such choice. It comes with pip install -e ".[optuna]"'
    )
