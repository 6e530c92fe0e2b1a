"""The prompt that an adapter was trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.prompt import HotwordsConfig
from kimi_audio_ft.config.train import DEFAULT_PROMPT
from kimi_audio_ft.files import read_json_object, write_json, write_jsonl
from kimi_audio_ft.manifest.prompts import copied_facts, recorded_hotwords
from kimi_audio_ft.transcribe.prompts import prompt_of, words_for
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


def test_the_one_that_the_adapter_names_needs_no_manifest(adapter: Path, tmp_path: Path) -> None:
    trained(adapter, prompt=None, train_manifest="gone.jsonl")
    write_json(adapter / "product.json", {**read_json_object(adapter / "product.json", ""), "prompt": "写下来"})
    assert prompt_of(None, adapter) == prompt_of(None, adapter, tmp_path) == "写下来"


def test_a_merged_checkpoint_has_that_of_its_adapter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert prompt_of(None, None, tmp_path) == DEFAULT_PROMPT and not caplog.records  # a plain base
    write_json(tmp_path / "merge.json", {"version": 2, "prompt": "写下来"})
    assert prompt_of(None, None, tmp_path) == "写下来" and prompt_of("听写", None, tmp_path) == "听写"
    write_json(tmp_path / "merge.json", {"version": 2})
    assert prompt_of(None, None, tmp_path) == DEFAULT_PROMPT
    assert f"{tmp_path}: the prompt that it was trained with is not known" in caplog.text


def test_where_nothing_is_known_it_is_that_of_prepare(
    adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert prompt_of(None, None) == DEFAULT_PROMPT and not caplog.records
    (tmp_path / "broken.jsonl").write_text("{", encoding="utf-8")
    trained(adapter, prompt=None, train_manifest=str(tmp_path / "broken.jsonl"))
    assert prompt_of(None, adapter) == DEFAULT_PROMPT
    assert "is not known" in caplog.text and "data.prompt=" in caplog.text
    caplog.clear()
    (adapter / "product.json").unlink()  # of another program
    assert prompt_of(None, adapter) == DEFAULT_PROMPT and "not known" in caplog.text


def test_hot_words_of_an_adapter_that_was_trained_without_any(
    adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "words.txt").write_text("江来\nLP\n", encoding="utf-8")
    words = HotwordsConfig(str(tmp_path / "words.txt"))
    trained(adapter)
    assert words_for(HotwordsConfig(), adapter) == () and words_for(words, None) == ("江来", "LP")
    write_json(adapter / "product.json", {"config": {"prompt": {"hotwords": "its/own.txt"}}})
    assert words_for(words, adapter) == ("江来", "LP") and not caplog.records
    write_json(adapter / "product.json", {"config": {"data": {}}})
    assert words_for(words, adapter) == ("江来", "LP")
    assert "was trained without hot words" in caplog.text and "prompt.hotwords=null" in caplog.text


def test_copies_of_an_adapter_say_whether_it_had_hot_words(
    adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They name its base, and no data; where it is not known nothing is said."""
    (tmp_path / "words.txt").write_text("江来\n", encoding="utf-8")
    words, copy, base = HotwordsConfig(str(tmp_path / "words.txt")), tmp_path / "copy", {"model": {"path": "tiny"}}
    copy.mkdir()
    trained(adapter, prompt="转录")
    for own, expected in (
        ({"config": {"data": {"prompt": "转录"}, "prompt": {"hotwords": "its.txt"}}}, True),
        ({"config": {"data": {"prompt": "转录"}, "prompt": None}}, False),
        ({"config": base, "prompt": "转录"}, None),
        ({"config": None}, None),
        ([], None),
    ):
        (adapter / "product.json").write_text(json.dumps(own), encoding="utf-8")
        write_json(copy / "product.json", {"base": "b", "config": base} | copied_facts(adapter / "product.json"))
        for folder in (adapter, copy):
            caplog.clear()
            assert words_for(words, folder) == ("江来",)
            assert ("was trained without hot words" in caplog.text) == (expected is False), (own, folder)
            assert recorded_hotwords(folder / "product.json") is expected
