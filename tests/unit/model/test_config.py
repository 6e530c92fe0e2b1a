"""The decoder's configuration: the published file's names, its defaults and its rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from kimi_audio_ft.model.config import PUBLISHED_7B, KimiAudioConfig
from kimi_audio_ft.paths import TINY_MODEL


def test_the_defaults_are_the_published_7b() -> None:
    config = KimiAudioConfig()
    assert {name: getattr(config, name) for name in PUBLISHED_7B} == PUBLISHED_7B
    assert config.is_7b and config.head_dim == 128 and config.rope_theta == 1e6


def test_the_published_files_names_are_read() -> None:
    config = KimiAudioConfig(
        rope_theta=5e5, torch_dtype="bfloat16", auto_map={"AutoConfig": "remote.Code"}, model_type="other"
    )
    assert config.rope_theta == 5e5 and config.model_type == "kimi_audio"
    assert config.dtype in ("bfloat16", torch.bfloat16)
    assert not hasattr(config, "auto_map")


def test_a_written_config_reads_back() -> None:
    fields = json.loads((TINY_MODEL / "config.json").read_text(encoding="utf-8"))
    config = KimiAudioConfig(**fields)
    again = KimiAudioConfig(**json.loads(config.to_json_string(use_diff=False)))
    assert again.to_dict() == config.to_dict()
    assert config.hidden_size == fields["hidden_size"] and not config.is_7b


@pytest.mark.parametrize(
    ("change", "is_7b"),
    [
        ({"kimia_mimo_layers": 0}, True),
        ({"kimia_media_begin": 1}, True),
        ({"kimia_mimo_layers": 3}, False),
        ({"hidden_size": 1792}, False),
        ({"vocab_size": 168449}, False),
    ],
)
def test_the_7b_is_known_by_its_shapes(change: dict[str, Any], is_7b: bool) -> None:
    assert KimiAudioConfig(**change).is_7b is is_7b


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kimia_mimo_transformer_from_layer_index": 28}, r"_index=28: .* one of the 28 layers \(0 to 27\)"),
        ({"kimia_mimo_transformer_from_layer_index": -1}, r"_index=-1: "),
        ({"kimia_token_offset": 0}, r"kimia_token_offset=0: .* inside vocab_size=168448"),
        ({"kimia_token_offset": 168448}, r"kimia_token_offset=168448: "),
    ],
)
def test_values_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KimiAudioConfig(**change)
