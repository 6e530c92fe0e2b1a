"""The prompt that an adapter was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import DEFAULT_PROMPT
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.transcribe.prompts import prompt_of
from tests.unit.conftest import answer, audio, line, user


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tmp_path / "adapter"


def trained(adapter: Path, **data: Any) -> Path:
    adapter.mkdir()
    write_json(adapter / "product.json", {"config": {"data": data}})
    return adapter


def test_the_given_one_comes_first(adapter: Path) -> None:
    assert prompt_of("听写", trained(adapter, prompt="转录")) == "听写"


def test_that_of_the_training(adapter: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "train.jsonl"
    write_jsonl(manifest, [line("a", user("写下来"), audio("a.wav"), answer("好"))])
    trained(adapter, prompt=None, train_manifest=["gone.jsonl", str(manifest)])
    assert prompt_of(None, adapter) == "写下来"
    write_json(adapter / "product.json", {"config": {"data": {"prompt": "转录", "train_manifest": str(manifest)}}})
    assert prompt_of(None, adapter) == "转录"


def test_where_nothing_is_known_it_is_that_of_prepare(
    adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert prompt_of(None, None) == DEFAULT_PROMPT and not caplog.records
    (tmp_path / "broken.jsonl").write_text("{", encoding="utf-8")
    trained(adapter, prompt=None, train_manifest=str(tmp_path / "broken.jsonl"))
    assert prompt_of(None, adapter) == DEFAULT_PROMPT
    assert "its prompt is not known" in caplog.text and "data.prompt=" in caplog.text
    caplog.clear()
    (adapter / "product.json").unlink()  # of another program
    assert prompt_of(None, adapter) == DEFAULT_PROMPT and "not known" in caplog.text
