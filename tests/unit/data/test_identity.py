"""What a manifest is, however its file is named or lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from kimi_audio_ft.manifest.manifest import Manifest, manifest_identity, read_manifest, reference_identity


def corpus(folder: Path, transcript: str = "你好", sound: bytes = b"sound") -> Manifest:
    folder.mkdir()
    (folder / "a.wav").write_bytes(sound)
    said = {"role": "user", "message_type": "text", "content": "转录"}
    heard = {"role": "user", "message_type": "audio", "content": "a.wav", "audio_tokens": [100]}
    answer = {"role": "assistant", "message_type": "text", "content": transcript}
    line = {"task_type": "understanding", "conversation": [said, heard, answer]}
    place = folder / "m.jsonl"
    place.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    return read_manifest(place)


def test_identity_is_that_of_the_content(tmp_path: Path) -> None:
    identity = manifest_identity(corpus(tmp_path / "one"))
    assert manifest_identity(corpus(tmp_path / "other transcript", transcript="您好")) != identity
    assert manifest_identity(corpus(tmp_path / "other audio", sound=b"sounds")) != identity
    shutil.move(tmp_path / "one", tmp_path / "moved")
    moved = read_manifest(tmp_path / "moved" / "m.jsonl")
    assert manifest_identity(moved) == identity
    assert manifest_identity(read_manifest(tmp_path / "moved" / "m.jsonl", prompt="写")) != identity
    (tmp_path / "moved" / "a.wav").unlink()
    assert manifest_identity(moved) != identity


def test_identity_of_what_is_scored_knows_neither_prompt_nor_codes(tmp_path: Path) -> None:
    own = reference_identity(corpus(tmp_path / "one"))
    place = tmp_path / "one" / "m.jsonl"
    assert reference_identity(read_manifest(place, prompt="写")) == own
    lines = place.read_text(encoding="utf-8")
    (tmp_path / "one" / "other.jsonl").write_text(lines.replace("[100]", "[101]").replace("转录", "写"), "utf-8")
    other = read_manifest(tmp_path / "one" / "other.jsonl")
    assert reference_identity(other) == own != manifest_identity(other)  # tokenized for another model
    assert reference_identity(corpus(tmp_path / "other transcript", transcript="您好")) != own
    assert reference_identity(corpus(tmp_path / "other audio", sound=b"sounds")) != own
    (tmp_path / "one" / "a.wav").unlink()
    assert reference_identity(read_manifest(place)) != reference_identity(other) != own  # codes are all there is
