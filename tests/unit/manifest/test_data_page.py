"""docs/data.md: its examples are read, its tables name what the code has."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from kimi_audio_ft.config.data_file import data_file_text, data_values, untokenized
from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.corpus.reasons import REASONS
from kimi_audio_ft.manifest.conversation import TokenRange, checked_line
from kimi_audio_ft.paths import data_page

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
LINES = [json.dumps(json.loads(block), ensure_ascii=False) for block in re.findall(r"```json\n(.*?)```", PAGE, re.S)]
CODES = TokenRange(152064, 168448)


def rows(heading: str) -> dict[str, str]:
    """The table below a header cell: what the first column names, and the second."""
    table = PAGE.split(f"| {heading} | rule |\n|---|---|\n")[1].split("\n\n")[0]
    cells = (line.strip("| ").split(" | ") for line in table.splitlines())
    return {name: rule for names, rule in cells for name in re.findall(r"`(\w+)`", names)}


def test_lines_are_valid() -> None:
    before, after, piece = LINES
    for line in LINES:
        checked_line(line, Path("m.jsonl"), 1)
    checked_line(after, Path("m.tokens.jsonl"), 1, CODES)
    tokenized = json.loads(after)
    codes = tokenized["conversation"][1].pop("audio_tokens")
    assert tokenized == json.loads(before) and all(CODES.first <= code < CODES.end for code in codes)
    assert json.loads(piece)["conversation"][1].keys() >= {"start", "end", "channel"}


def test_tables_explain_every_key_of_the_lines() -> None:
    keys, of_messages = rows("key of a line"), rows("key of a message")
    conversations = [json.loads(line) for line in LINES]
    assert {key for one in conversations for key in one} == keys.keys()
    assert {key for one in conversations for message in one["conversation"] for key in message} == of_messages.keys()


def test_reasons_are_those_of_prepare() -> None:
    assert {name: rule.replace("`", "") for name, rule in rows("reason").items()} == REASONS


def test_data_file_is_what_prepare_writes(tmp_path: Path) -> None:
    block, _ = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert data_file_text(["train", "eval", "test"]).endswith(block)
    file = tmp_path / "data.yaml"
    file.write_text(block, encoding="utf-8")
    assert data_values(file).keys() < {field.name for field in fields(DataConfig)}
    assert [Path(name).name for name in untokenized(file)] == ["train.jsonl", "eval.jsonl", "test.jsonl"]


def test_several_manifests_are_read_as_written(tmp_path: Path) -> None:
    _, block = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    file = tmp_path / "data.yaml"
    file.write_text(block, encoding="utf-8")
    data = DataConfig(**data_values(file))
    assert data.train_weights == [1, 0.5] and len(data.train_manifest) == 2
    assert data.eval_manifest["calls"] == str(tmp_path / "calls-eval.tokens.jsonl")


def test_errors_name_the_page_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(data_page()).read_text(encoding="utf-8") == PAGE
    monkeypatch.chdir(Path(__file__).parents[3])
    assert data_page() == "docs/data.md"
