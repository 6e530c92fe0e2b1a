"""The checks of `prepare`'s options."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_audio_ft.config.commands import PrepareConfig, TokenizeConfig
from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_ratio": 1.0}, r"eval_ratio=1\.0: must be in \[0, 1\)"),
        ({"eval_ratio": float("nan")}, "eval_ratio=nan"),
        ({"test_ratio": -0.1}, r"test_ratio=-0\.1"),
        ({"eval_ratio": 0.6, "test_ratio": 0.4}, r"together with test_ratio=0\.4"),
        ({"min_seconds": 5.0, "max_seconds": 5.0}, r"min_seconds=5\.0: .* less than max_seconds=5\.0"),
        ({"min_chars_per_second": -1.0}, "min_chars_per_second"),
        ({"row_limit": 0}, "row_limit=0: must be 1 or more"),
        ({"workers": 0}, "workers=0"),
        ({"delimiter": ",,"}, "delimiter=',,': must be one character other than quotechar, or one of tab"),
        ({"delimiter": '"'}, "must be one character other than quotechar"),
        ({"quotechar": "''"}, "quotechar"),
        ({"encoding": "klingon"}, "encoding='klingon': no such encoding"),
        ({"encoding": "base64"}, "encoding='base64': no such encoding"),
        ({"header": "maybe"}, "header='maybe': must be one of auto, true, false"),
        ({"group_pattern": "("}, "not a regular expression"),
        ({"group_pattern": "(a)(b)"}, "has 2 groups"),
        ({"group_pattern": "a", "group_column": "b"}, "group_column='b' is set as well"),
        ({"balance_mode": "downsample"}, "balance_column=None: .* go together"),
        ({"balance_column": "kind"}, "go together"),
        ({"balance_mode": "both"}, "must be one of none, downsample, upsample"),
        ({"prompt": " "}, "prompt=' ': must not be empty"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareConfig(csv="a.csv", out="out", **options)


def test_spellings_of_options() -> None:
    config = PrepareConfig(csv="a.csv", out="out", header="True", delimiter="tab", encoding="utf-16")
    assert (config.header, config.delimiter) == ("true", "\t")


def test_home_folders_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell replaces a ~ behind an option's name."""
    monkeypatch.setenv("HOME", "/home/someone")
    prepare = PrepareConfig(csv="~/a.csv", out="~/out", audio_pattern="~/wav/{audio}")
    assert (prepare.csv, prepare.out) == ("/home/someone/a.csv", "/home/someone/out")
    assert prepare.audio_pattern == "/home/someone/wav/{audio}"
    tokenize = TokenizeConfig(manifests=["~/a.jsonl", "b~.jsonl"], out="~/out")
    assert tokenize.manifests == ["/home/someone/a.jsonl", "b~.jsonl"] and tokenize.out == "/home/someone/out"
    assert DataConfig(train_manifest="~/a.jsonl").train_manifest == "/home/someone/a.jsonl"
