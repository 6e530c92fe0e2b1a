"""Checks of option values: what passes, and the option, value and rule that an error names."""

from __future__ import annotations

import pytest

from kimi_audio_ft.config.checks import at_least, below_one, count_or_auto, one_of, require
from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.errors import ConfigError


def test_a_broken_rule_names_option_value_rule_and_remedy() -> None:
    require(True, "lora.r", 8, "must be 1 or more")
    with pytest.raises(ConfigError) as raised:
        require(False, "lora.r", 0, "must be 1 or more", "Take 8")
    assert str(raised.value) == "lora.r=0: must be 1 or more. Take 8"


def test_fields_have_a_least_value_or_none() -> None:
    at_least(1, LoraConfig(r=1), "lora.", "r", "lora_alpha")
    with pytest.raises(ConfigError, match=r"^lora\.r=1: must be 2 or more\. Take 8$"):
        at_least(2, LoraConfig(r=1), "lora.", "r", remedy="Take 8")
    with pytest.raises(ConfigError, match=r"^r=1: must be in \[0, 1\)$"):
        below_one(LoraConfig(r=1), "", "lora_dropout", "r")


def test_a_choice_is_one_of_those_listed() -> None:
    one_of("model.dtype", "float32", ("bfloat16", "float32"))
    with pytest.raises(ConfigError, match=r"^model\.dtype='int8': must be one of bfloat16, float32$"):
        one_of("model.dtype", "int8", ("bfloat16", "float32"))


@pytest.mark.parametrize("value", ["auto", 1, 64])
def test_counts_and_auto_pass(value: object) -> None:
    count_or_auto("data.batch_size", value)


@pytest.mark.parametrize("value", [0, -1, 2.0, "4", True, None])
def test_what_is_neither_a_count_nor_auto_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^data\.batch_size=.*: must be auto, or 1 or more$"):
        count_or_auto("data.batch_size", value)
