"""Errors for users: their messages, and that they survive the way from another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from kimi_audio_ft.errors import ConfigError, DataError, UserError


def test_a_config_error_names_option_value_rule_and_remedy() -> None:
    assert str(ConfigError("lora.r", 0, "must be 1 or more")) == "lora.r=0: must be 1 or more"
    assert str(ConfigError("seed", "x", "must be an integer", "Leave it out")) == (
        "seed='x': must be an integer. Leave it out"
    )


def test_a_data_error_names_file_line_and_problem() -> None:
    assert str(DataError("a.jsonl", "is empty")) == "a.jsonl: is empty"
    error = DataError("a.jsonl", "is not JSON", "Mend it", line=3)
    assert str(error) == "a.jsonl:3: is not JSON. Mend it"
    assert (error.path, error.line, error.problem) == (Path("a.jsonl"), 3, "is not JSON")


def test_nothing_in_a_message_is_obeyed_by_a_terminal() -> None:
    error = DataError("a\x1b[2Jb.jsonl", "has no \x9b1A\u202e", "Mend it\nand run again")
    assert str(error) == "a\\x1b[2Jb.jsonl: has no \\x9b1A\\u202e. Mend it\nand run again"


@pytest.mark.parametrize(
    "error",
    [
        UserError("nothing to do"),
        ConfigError("lora.r", 0, "must be 1 or more", "Take 8"),
        DataError("a.jsonl", "is not JSON", "Mend it", line=3),
    ],
)
def test_pickling_keeps_class_message_and_attributes(error: UserError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
