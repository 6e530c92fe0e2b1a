"""`python -m kimi_audio_ft.prepare` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.integration.conftest import Outcome, Workplace


@pytest.fixture
def csv_folder(tmp_path: Path) -> Path:
    """A CSV beside its 16 recordings: 4 meetings of 4 segments."""
    rows = ["audio,text"]
    for index in range(16):
        name = f"{index // 4}_{index % 4}.wav"
        soundfile.write(tmp_path / name, np.random.default_rng(index).uniform(-0.5, 0.5, 8000), 8000)
        rows.append(f"{name},第{index}句")
    (tmp_path / "corpus.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def command(*arguments: str, folder: Path) -> Outcome:
    return Workplace(folder).run("kimi_audio_ft.prepare", *arguments)


def test_the_command(csv_folder: Path) -> None:
    names_before = {path.name for path in csv_folder.iterdir()}
    done = command("csv=corpus.csv", "out=out", "row_limit=12", r'group_pattern="^(\d)"', folder=csv_folder)
    assert done.code == 0, done.err
    assert "corpus.csv: 12 rows (4 more beyond row_limit), read as utf-8" in done.out
    assert "train.jsonl" in done.out and "eval.jsonl" in done.out
    assert {path.name for path in csv_folder.iterdir()} == {*names_before, "out"}
    held_out = [json.loads(line)["group"] for line in (csv_folder / "out" / "eval.jsonl").open(encoding="utf-8")]
    assert len(set(held_out)) == 1 and len(held_out) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["csv=corpus.csv", "out=out", "text_column=sentence"], "error: text_column='sentence': corpus.csv:1 has no"),
        (["csv=corpus.csv", "out=out", "eval_ratio=2"], "error: eval_ratio=2.0: must be"),
        (["csv=corpus.csv"], "error: out: has no value"),
        (["csv=corpus.csv", "out=out", "text=b"], "error: text: there is no such option"),
        (["csv=corpus.csv", "out=corpus.csv"], "error: corpus.csv: cannot make this folder"),
    ],
)
def test_the_command_s_errors(csv_folder: Path, arguments: list[str], message: str) -> None:
    done = command(*arguments, folder=csv_folder)
    assert done.code == 2
    assert message in done.err and "Traceback" not in done.err
