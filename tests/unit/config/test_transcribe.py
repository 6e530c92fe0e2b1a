"""The checks of `transcribe`'s options."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_audio_ft.config.transcribe import SpeechConfig, TranscribeConfig
from kimi_audio_ft.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": []}, r"audio=\[\]: must name recordings.*Write audio="),
        ({"audio": ["a.wav", ""]}, "must name recordings"),
        ({"audio": 5}, "must name recordings"),
        ({"out": ""}, "out='': must name a folder"),
        ({"format": "doc"}, "format='doc': must be one of jsonl, csv, srt, vtt"),
        ({"format": ["csv", "txt"]}, "format='txt'"),
        ({"format": []}, r"format=\[\]: needs at least one. Use jsonl"),
        *(({"surest": part}, f"surest={part}: must be greater than 0 and at most 1") for part in (0.0, 1.1)),
        ({"cut": "vad"}, "cut='vad': must be one of pauses, windows"),
        ({"max_seconds": 4.9}, r"max_seconds=4\.9: must lie between 5 and 30 s"),
        ({"max_seconds": 31.0}, "max_seconds=31"),
        ({"max_seconds": float("nan")}, "max_seconds=nan"),
        ({"channel": -1}, "channel=-1: must be 0 or more"),
        ({"readers": 0}, "readers=0: must be 1 or more"),
        ({"threads": -1}, "threads=-1"),
        ({"devices": 0}, "devices=0: must be auto, or 1 or more"),
        ({"adapter": ""}, "adapter='': must name one. Use null"),
        ({"sweep": ""}, "sweep='': must name one. Use null"),
        ({"adapter": "a1", "sweep": "s"}, "sweep='s': adapter='a1' is given as well.*Give one of them"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TranscribeConfig(**{"audio": "a.wav", "out": "out", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"features": "some"}, r"data\.features='some': must be one of cached"), ({"prompt": " "}, r"data\.prompt=' '")],
)
def test_options_of_speech_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeechConfig(**options)


def test_one_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = TranscribeConfig(audio="~/calls", out="~/texts", format="srt")
    assert (config.audio, config.format, config.out) == (["/home/someone/calls"], ["srt"], "/home/someone/texts")
    assert TranscribeConfig(audio=["a", "~/b"], out="o").audio == ["a", "/home/someone/b"]
