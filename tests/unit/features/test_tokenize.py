"""Pretokenized manifests: the codes of the recordings, and everything else as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.data_file import data_values
from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.features.tokenize import output_path, pretokenized, tokenize
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.manifest.audio import read_audio
from kimi_audio_ft.manifest.manifest import read_manifest
from kimi_audio_ft.model import SpeechTokenizer
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.features import FeatureStore
from tests.unit.conftest import Corpus, Tiny, answer, audio


def config(*manifests: Path, **fields: Any) -> TokenizeConfig:
    model = ModelConfig(dtype="float32")
    return TokenizeConfig([str(path) for path in manifests], model=model, features=False, progress=False, **fields)


@pytest.fixture
def folder(encoded: Path, tmp_path: Path) -> Path:
    """A folder with the clips, for manifests of the test's own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clips").symlink_to(encoded / "clips")
    return tmp_path / "data"


@pytest.fixture
def write(folder: Path) -> Callable[..., Path]:
    def write(*lines: str | dict[str, Any]) -> Path:
        texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        (folder / "m.jsonl").write_text("\n".join(texts), encoding="utf-8")
        return folder / "m.jsonl"

    return write


def asr(clip: str, **more: Any) -> dict[str, Any]:
    conversation = [audio(clip), answer(more.pop("transcript", "好"))]
    return {"task_type": "understanding", "conversation": conversation, **more}


def test_codes_are_the_tokenizer_s_with_the_offset(corpus: Corpus, tiny: Tiny, tmp_path: Path) -> None:
    (written,) = tokenize(config(corpus.raw, out=str(tmp_path / "out")))
    assert written == tmp_path / "out" / "raw.tokens.jsonl"
    tokenizer = SpeechTokenizer.from_pretrained(tiny.encoders().files.speech_tokenizer)
    conversations = read_manifest(written, tokens=tiny.tokens)
    assert [c.id for c in conversations] == [c.id for c in read_manifest(corpus.raw)]
    for conversation in conversations:
        given = [m["audio_tokens"] for m in conversation.messages if m["message_type"] == "audio"]
        codes = tokenizer.encode([read_audio(path) for path in conversation.audio_paths])
        assert given == [[code + tiny.tokens.first for code in row.tolist()] for row in codes]


def test_the_rest_of_a_line_stays(write: Callable[..., Path]) -> None:
    more = {"id": "x", "group": "meeting 1", "note": {"a": [1]}}
    before = asr("clips/0.wav", **more)
    path = write(before, asr("clips/1.wav"))
    first, second = read_jsonl(tokenize(config(path))[0])
    codes = first["conversation"][0].pop("audio_tokens")
    assert len(codes) == 4 and first == before
    assert second["id"] == "2"  # made explicit, so that it stays when lines are moved


def test_line_separators_inside_of_strings_do_not_shift_lines(write: Callable[..., Path]) -> None:
    """U+2028, U+0085 and a form feed end lines for Python's splitlines, but neither in JSON nor in files."""
    transcripts = ["一\u2028二", "三\u0085四", "五", "六"]
    lines: list[Any] = [asr(f"clips/{index}.wav", transcript=text) for index, text in enumerate(transcripts)]
    lines[2:2] = ["", "  "]
    path = write(*lines)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    written = read_jsonl(tokenize(config(path))[0])
    assert [row["conversation"][1]["content"] for row in written] == transcripts
    assert [len(row["conversation"][0]["audio_tokens"]) for row in written] == [4, 12, 7, 17]


def test_audio_paths_stay_right(write: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    path = write(asr("clips/0.wav"), asr(str(folder / "clips" / "1.wav")))
    beside, elsewhere = tokenize(config(path))[0], tokenize(config(path, out=str(tmp_path / "other")))[0]
    assert beside == folder / "m.tokens.jsonl" and elsewhere == tmp_path / "other" / "m.tokens.jsonl"
    assert [row["conversation"][0]["content"] for row in read_jsonl(beside)] == [
        "clips/0.wav",
        str(folder / "clips/1.wav"),
    ]
    for written in (beside, elsewhere):
        paths = [path.resolve() for c in read_manifest(written) for path in c.audio_paths]
        assert paths == [(folder / f"clips/{i}.wav").resolve() for i in (0, 1)]


def test_an_audio_root(write: Callable[..., Path], folder: Path) -> None:
    path = write(asr("0.wav"))
    with pytest.raises(DataError, match=r"m\.jsonl:1: there is no recording .*data/0\.wav\. Check the path"):
        tokenize(config(path))
    written = tokenize(config(path, audio_root=str(folder / "clips")))[0]
    assert read_manifest(written, audio_root=str(folder / "clips"))[0].audio_paths == (folder / "clips" / "0.wav",)


def test_a_second_run_writes_the_same_and_stores_nothing(write: Callable[..., Path], private_store: Path) -> None:
    path = write(asr("clips/0.wav"), asr("clips/1.wav"))
    (written,) = tokenize(config(path))
    before, written_at = written.read_bytes(), written.stat().st_mtime_ns
    stored = {file: file.stat().st_mtime_ns for file in private_store.rglob("features/*/*") if file.name[0] != "."}
    assert stored
    assert tokenize(config(path)) == [written] and written.read_bytes() == before
    assert written.stat().st_mtime_ns == written_at
    assert tokenize(config(written))[0] == output_path(written, None)
    assert read_jsonl(output_path(written, None)) == read_jsonl(written)
    assert {file: file.stat().st_mtime_ns for file in stored} == stored


def test_size_and_speed_are_printed(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], private_store: Path
) -> None:
    path = write(asr("clips/0.wav"), asr("clips/1.wav"))
    tokenize(config(path))
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("to encode: 2 recordings, 0.000333 hours of audio, about 128 bytes of codes into ")
    assert str(private_store) in first and first.endswith(" free)")
    rate = r"encoded 2 recordings, 0\.000333 hours of audio, in [\d.]+ s: [\de.-]+ hours of audio per second \("
    assert re.match(rate + r"[\d.]+ times real time", second) and third.endswith(
        "m.tokens.jsonl: 2 conversations, 16 codes (0.0 min of audio)"
    )
    tokenize(config(path))
    assert capsys.readouterr().out.startswith("to encode: nothing, the store holds every recording\n")


def test_codes_beyond_the_model_s_are_refused(write: Callable[..., Path], tiny: Tiny) -> None:
    manifest = read_manifest(write(asr("clips/0.wav"), asr("clips/1.wav")))
    store = FeatureStore({"speech_tokenizer": "s"}, dim=0)
    largest = tiny.tokens.end - tiny.tokens.first - 1
    for clip, code in ((0, largest), (1, largest + 1)):
        store.add([(file_digest(manifest[clip].audio_paths[0]), [0, code, 0], None)])
    lines = pretokenized(manifest, store, tiny.tokens, manifest.source.path.parent)
    assert next(lines)["conversation"][0]["audio_tokens"][1] == tiny.tokens.end - 1
    with pytest.raises(DataError, match=rf"m\.jsonl:2: clips/1\.wav has code {largest + 1}, beyond.*speech_tokenizer"):
        next(lines)


def test_what_changes_meanwhile_is_refused(write: Callable[..., Path], tiny: Tiny, tmp_path: Path) -> None:
    path = write(asr("clips/0.wav"))
    tokenize(config(path))
    store, manifest = tiny.encoders(features=False).store(), read_manifest(path)
    write(asr("clips/0.wav"), asr("clips/1.wav"))
    with pytest.raises(DataError, match=r"m\.jsonl: was changed while it was being read"):
        next(pretokenized(manifest, store, tiny.tokens, tmp_path))
    with pytest.raises(DataError, match=r"m\.jsonl:2: clips/1\.wav has changed while the recordings were encoded"):
        list(pretokenized(read_manifest(path), store, tiny.tokens, tmp_path))


def test_devices(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(asr("clips/0.wav"))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"devices=1: 2 processes were started already.*Leave it out"):
        tokenize(config(path, devices=1))


def test_codes_without_a_recording_cannot_be_made(write: Callable[..., Path]) -> None:
    row = asr("clips/0.wav")
    row["conversation"][0] = {"role": "user", "message_type": "audio", "audio_tokens": [1500]}
    path = write(asr("clips/0.wav"), row)
    with pytest.raises(DataError, match=r"m\.jsonl:2: 1 audio messages but 0 recordings\. Give every audio message"):
        tokenize(config(path))
    assert not path.with_name("m.tokens.jsonl").exists()


def test_the_data_file_goes_where_the_manifests_go(write: Callable[..., Path], folder: Path) -> None:
    write(asr("clips/0.wav")).rename(folder / "train.jsonl")
    (folder / "data.yaml").write_text("train_manifest: train.tokens.jsonl\n", encoding="utf-8")
    (written,) = tokenize(config(folder, out=str(folder / "there")))
    assert data_values(folder / "there" / "data.yaml") == {"train_manifest": str(written)}
