"""Options of the server: what is refused, and how it is said."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from kimi_audio_ft.config.serve import ServeConfig
from kimi_audio_ft.config.train import DecodingConfig, ModelConfig, VllmConfig
from kimi_audio_ft.config.transcribe import SpeechConfig
from kimi_audio_ft.errors import ConfigError

BY_VLLM = DecodingConfig(engine="vllm", vllm=VllmConfig(sys.executable))
AT_SERVER = DecodingConfig(engine="vllm", vllm=VllmConfig(url="http://127.0.0.1:8001"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"adapters": ["a"]}, r"adapters=\['a'\]: must name adapters. Write 'adapters="),
        ({"adapters": {"a": None}}, "must name adapters"),
        ({"adapters": {"base": "x"}}, "base is the base alone. Use another name"),
        ({"sweep": ""}, "sweep='': must name one"),
        ({"host": ""}, "host='': must be an address"),
        ({"port": 70_000}, "port=70000: must be a port"),
        ({"max_megabytes": 0.0}, "max_megabytes=0.0: must be greater than 0"),
        ({"max_minutes": -1.0}, "max_minutes=-1.0: must be greater than 0"),
        ({"max_minutes": 300.0}, r"max_total_minutes=240.0: must be max_minutes \(300\) or more"),
        ({"sweep": "s", "adapters": {"recommended": "x"}}, "recommended is the recommended trial .* Use another name"),
        ({"max_requests": 0}, "max_requests=0: must be 1 or more"),
        ({"threads": -1}, "threads=-1: must be 0 or more"),
        ({"cut": "vad"}, "cut='vad': must be one of pauses, windows"),
        ({"decoding": BY_VLLM}, "decoding.vllm.url=None: must be the address of a running vLLM server"),
        (
            {"decoding": AT_SERVER, "data": SpeechConfig(features="online")},
            "data.features=.online.: decoding.engine=vllm hears recordings by stored features only",
        ),
        ({"decoding": AT_SERVER, "model": ModelConfig(quantization="nf4")}, "decodes with a base in model.dtype"),
        ({"max_seconds": 31.0}, "max_seconds=31.0: must lie between 5 and 30 s"),
    ],
)
def test_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ServeConfig(**options)


def test_adapters_by_name() -> None:
    assert ServeConfig().adapters == {}
    assert ServeConfig(adapters={"recommended": "x"}).adapters == {"recommended": "x"}, "without a sweep it is a name"
    assert ServeConfig(adapters={"meetings": "my/adapter"}).adapters == {"meetings": "my/adapter"}
