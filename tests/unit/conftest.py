"""Fixtures for the units that write to disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hydra.core.global_hydra import GlobalHydra

from kimi_audio_ft.config.train import DataConfig, ModelConfig, TrainConfig
from kimi_audio_ft.data.datamodule import BatchRules, ConversationData
from kimi_audio_ft.features.encode import Encoders, encode_missing
from kimi_audio_ft.features.tokenize import pretokenized
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest.conversation import TokenRange
from kimi_audio_ft.manifest.manifest import read_manifest
from kimi_audio_ft.model import TextTokenizer
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.model.files import locate


def rewrite(path: Path, content: bytes) -> None:
    """Put other content of the same size into a file, which keeps its name, its inode and its time of change."""
    before = path.stat()
    path.write_bytes(content)
    while True:  # the clock of a file system ticks every few milliseconds
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        if path.stat().st_ctime_ns != before.st_ctime_ns:
            break
    assert path.stat().st_size == before.st_size


# A small spoken corpus of noise clips, encoded once with the embedded model's encoders.

SECONDS = (0.3, 0.9, 0.5, 1.3, 0.7, 1.1, 0.4, 0.6)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "message_type": "text", "content": text}


def audio(path: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "message_type": "audio", "content": path, **more}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "message_type": "text", "content": text}


def line(name: str, *messages: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "task_type": "understanding", "conversation": list(messages)}


CONVERSATIONS = [
    line("short", user("转录"), audio("clips/0.wav"), answer("好")),
    line("long", user("转录"), audio("clips/1.wav"), answer("今天的会议现在开始")),
    line("two audios", user("比较"), audio("clips/2.wav"), audio("clips/3.wav"), answer("不一样")),
    line("turns", user("转录"), audio("clips/4.wav"), answer("你好"), user("再说一次"), answer("你好你好")),
    line("no audio", user("你好吗"), answer("我很好，谢谢")),
    line("five", user("转录"), audio("clips/5.wav"), answer("七千万")),
    line("six", user("转录"), audio("clips/6.wav"), answer("5G")),
    line("seven", user("转录"), audio("clips/7.wav"), answer("谢谢大家")),
]


@dataclass(frozen=True)
class Tiny:
    """The embedded model's tokenizer, code range and encoders."""

    tokenizer: TextTokenizer
    tokens: TokenRange

    def encoders(self, features: bool = True, dtype: torch.dtype = torch.float32) -> Encoders:
        return Encoders(locate(ModelConfig()), features, dtype)


@dataclass(frozen=True)
class Corpus:
    """raw: manifest without codes; coded: with them; the store (of the test alone) holds codes and features."""

    raw: Path
    coded: Path


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    config = read_config(locate(ModelConfig()).root)
    tokenizer = TextTokenizer.from_pretrained(locate(ModelConfig()).root)
    return Tiny(tokenizer, TokenRange(config.kimia_token_offset, config.vocab_size))


@pytest.fixture(scope="session")
def encoded(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "clips").mkdir()
    rng = np.random.default_rng(7)
    for index, seconds in enumerate(SECONDS):
        soundfile.write(folder / "clips" / f"{index}.wav", rng.normal(0, 0.1, round(16000 * seconds)), 16000)
    write_jsonl(folder / "raw.jsonl", CONVERSATIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIMI_AUDIO_FT_STORE", str(folder / "store"))
        conversations = read_manifest(folder / "raw.jsonl")
        store = encode_missing(tiny.encoders(), conversations, progress=False)
        rows = list(pretokenized(conversations, store, tiny.tokens, folder))
    write_jsonl(folder / "coded.jsonl", rows)
    return folder


@pytest.fixture
def corpus(encoded: Path, private_store: Path) -> Corpus:
    shutil.copytree(encoded / "store", private_store)
    return Corpus(encoded / "raw.jsonl", encoded / "coded.jsonl")


@pytest.fixture
def make_data(corpus: Corpus, tiny: Tiny) -> Callable[..., ConversationData]:
    """Makes a data module over the corpus; arguments are ``DataConfig`` fields."""

    def make(rules: BatchRules | None = None, **fields: Any) -> ConversationData:
        defaults = {"train_manifest": str(corpus.coded), "eval_manifest": str(corpus.coded), "batch_size": 3}
        settings = DataConfig(**defaults | fields)
        encoders = tiny.encoders(settings.features == "cached")
        data = ConversationData(
            settings, tiny.tokenizer, encoders, tiny.tokens, rules or BatchRules(accumulate=2, average="sample", seed=5)
        )
        data.setup()
        return data

    return make


@pytest.fixture
def change_line(corpus: Corpus, tmp_path: Path) -> Callable[..., Path]:
    """Copies the coded manifest beside the clips' links, with one line changed."""

    def change(number: int, edit: Callable[[dict[str, Any]], None]) -> Path:
        rows = [json.loads(text) for text in corpus.coded.read_text(encoding="utf-8").splitlines()]
        edit(rows[number - 1])
        folder = tmp_path / "changed"
        folder.mkdir()
        (folder / "clips").symlink_to(corpus.coded.parent / "clips")
        write_jsonl(folder / "changed.jsonl", rows)
        return folder / "changed.jsonl"

    return change


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Fits a config's adapter into ``tmp_path/<name>/adapter`` with checkpoints in ``tmp_path/<name>/work``."""
    from kimi_audio_ft.runtime.libraries import quiet_libraries
    from kimi_audio_ft.trial import Trial

    quiet_libraries()

    def run(config: TrainConfig, name: str = "fit", on_row: Callable[..., None] | None = None) -> dict[str, Any]:
        trial = Trial(config)
        folder, work = tmp_path / name / "adapter", tmp_path / name / "work"
        return trial.fit(folder, work, on_row)

    return run


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs a command's function in an empty folder as if these were its arguments."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(os, "environ", os.environ)
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[[], None], *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        GlobalHydra.instance().clear()
        main()

    yield run
    GlobalHydra.instance().clear()
    root.handlers[:] = handlers
    root.setLevel(level)
