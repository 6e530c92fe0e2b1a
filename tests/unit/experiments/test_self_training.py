"""The split of the study: whole recordings, and nothing of the truth beside the recordings to transcribe."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.self_training import judge, split
from kimi_audio_ft.files import read_jsonl, write_jsonl
from tests.unit.conftest import answer, audio, line, user


def test_split_and_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for number in range(12):
        (tmp_path / f"{number}.wav").write_bytes(b"x")
        made = line(f"u{number}", user("转录"), audio(f"{number}.wav"), answer("今天"))
        lines.append({**made, "group": f"g{number // 3}"})
    write_jsonl(tmp_path / "train.jsonl", lines)
    out = tmp_path / "self"
    split(tmp_path / "train.jsonl", out, labelled=4, seed=1)
    labelled, truth = (read_jsonl(out / f"{name}.jsonl") for name in ("labelled", "truth"))
    assert len(labelled) == len(truth) == 6
    assert not {one["group"] for one in labelled} & {one["group"] for one in truth}
    assert {path.stem for path in (out / "audio").iterdir()} == {one["id"] for one in truth}
    assert all(Path(one["conversation"][1]["content"]).is_file() for one in [*labelled, *truth])
    for name, text in (("surest", "今天"), ("all", "今年")):
        wrong = [{**one, "conversation": [*one["conversation"][:2], answer(text)]} for one in truth[:3]]
        write_jsonl(out / name / "train.jsonl", wrong)
    judge(out)
    said = capsys.readouterr().out
    assert "surest: 3 of 6 transcripts (50.0%), CER 0.00% of these" in said
    assert "all: 3 of 6 transcripts, CER 75.00% with the missing ones as empty" in said  # (3 * 1 + 3 * 2) / 12
    assert f"'data.train_manifest=[{out}/labelled.tokens.jsonl],[{out}/labelled.tokens.jsonl,{out}/surest/" in said
