"""Rows that are parts of recordings give what the same parts give that were cut into files before."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from kimi_audio_ft.config import train
from kimi_audio_ft.config.commands import PrepareConfig, TokenizeConfig
from kimi_audio_ft.corpus.prepare import prepare
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.features.tokenize import tokenize
from kimi_audio_ft.files import read_jsonl, write_jsonl
from kimi_audio_ft.scoring import ScoringOptions
from kimi_audio_ft.trial import Trial

RATE = 8000
# recording, start, end, channel, text, speaker
SEGMENTS = [
    ("a", "0.25", "1.5", 0, "今天开会", "甲"),
    ("a", "0.5", "1.75", 1, "好", "乙"),
    ("a", "2", "3.0", 0, "我们讨论利润", "甲"),
    ("b", "0", "1.1", 1, "谢谢大家", "乙"),
    ("b", "1.1", "2.0", 1, "再见", "乙"),
]
MODEL = train.ModelConfig(path="tiny", dtype="float32")


def corpora(folder: Path) -> tuple[Path, Path]:
    """CSVs of the segments of two recordings with two channels, and of the same segments as files."""
    rng = np.random.default_rng(5)
    pitches = {name: np.repeat(rng.uniform(100, 1500, (30, 2)), RATE // 10, axis=0) for name in "ab"}
    sounds = {
        name: (9000 * np.sin(np.cumsum(2 * np.pi * hertz / RATE, axis=0))).astype(np.int16)
        for name, hertz in pitches.items()
    }
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name}.flac", samples, RATE)
    pieces, files = (
        [["audio", "start", "end", "channel", "text", "id", "who"]],
        [["audio", "text", "id", "who", "from"]],
    )
    for number, (name, start, end, channel, text, speaker) in enumerate(SEGMENTS):
        cut = sounds[name][round(float(start) * RATE) : round(float(end) * RATE), channel]
        soundfile.write(folder / f"cut{number}.wav", cut, RATE)
        pieces.append([f"{name}.flac", start, end, str(channel), text, f"u{number}", speaker])
        files.append([f"cut{number}.wav", text, f"u{number}", speaker, name])
    for path, rows in ((folder / "pieces.csv", pieces), (folder / "files.csv", files)):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder / "pieces.csv", folder / "files.csv"


def pretokenized(table: Path, **options: Any) -> list[Path]:
    out = table.with_suffix("")
    settings: dict[str, Any] = {
        "id_column": "id",
        "keep_columns": ["who"],
        "eval_ratio": 0.4,
        "test_ratio": 0.0,
        **options,
    }
    prepare(PrepareConfig(csv=str(table), out=str(out), **settings))
    manifests = [str(out / f"{split}.jsonl") for split in ("train", "eval")]
    return tokenize(TokenizeConfig(manifests=manifests, model=MODEL, progress=False))


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """train and eval of the segments, and of the files."""
    pieces, files = corpora(tmp_path_factory.mktemp("corpora"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIMI_AUDIO_FT_STORE", str(pieces.parent / "store"))
        columns = {"start_column": "start", "end_column": "end", "channel_column": "channel"}
        return pretokenized(pieces, **columns), pretokenized(files, group_column="from")


@pytest.fixture
def trials(
    manifests: tuple[list[Path], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> tuple[train.TrainConfig, train.TrainConfig]:
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(manifests[0][0].parent.parent / "store"))
    configs = [
        train.TrainConfig(
            data=train.DataConfig(train_manifest=str(one), eval_manifest=str(other), batch_size=2),
            model=MODEL,
            lora=train.LoraConfig(r=2),
            decoding=train.DecodingConfig(text_temperature=0.0, max_new_tokens=8),
            trainer=train.TrainerConfig(max_steps=2, accumulate=1, progress=False),
            logger=train.LoggerConfig(kind="none"),
        )
        for one, other in manifests
    ]
    return configs[0], configs[1]


def test_manifests_differ_in_the_recordings_alone(manifests: tuple[list[Path], list[Path]]) -> None:
    pieces, files = ([line for path in some for line in read_jsonl(path)] for some in manifests)
    assert [line["id"] for line in pieces] == [line["id"] for line in files] and len(pieces) == len(SEGMENTS)
    for piece, file in zip(pieces, files, strict=True):
        name, start, end, channel, _, speaker = SEGMENTS[int(piece["id"][1:])]
        audio = piece["conversation"][1]
        assert audio.pop("content") == f"../{name}.flac" and file["conversation"][1].pop("content").startswith("../cut")
        assert (audio.pop("start"), audio.pop("end"), audio.pop("channel")) == (float(start), float(end), channel)
        assert piece == file and piece["columns"] == {"who": speaker} and piece["group"] == name


def samples(config: train.TrainConfig, features: str, **augment: Any) -> list[Any]:
    data = replace(config.data, features=features, augment=train.AugmentConfig(**augment))
    trial = Trial(replace(config, data=data))
    trial.data.setup()
    return [trial.data.train_set[index] for index in range(len(trial.data.train_set))]


@pytest.mark.parametrize("augment", [{}, {"speeds": [0.8], "gains_db": [-3.0]}])
def test_samples_are_equal(trials: tuple[train.TrainConfig, train.TrainConfig], augment: dict[str, Any]) -> None:
    for features, name in (("cached", "features"), ("online", "waveforms")):
        pieces, files = (samples(config, features, **augment) for config in trials)
        assert len(pieces) == len(files) > 1
        for piece, file in zip(pieces, files, strict=True):
            assert piece.layout == file.layout
            for one, other in zip(getattr(piece, name), getattr(file, name), strict=True):
                assert torch.equal(one, other)


@pytest.mark.slow
def test_adapters_and_transcripts_are_equal(trials: tuple[train.TrainConfig, train.TrainConfig]) -> None:
    made = []
    for trial in map(Trial, trials):
        adapter = trial.adapter()
        transcripts = trial.transcripts(adapter)
        rows = list(map(json.loads, trial.evaluation.utterances(transcripts, ScoringOptions()).splitlines()))
        made.append(((adapter.folder / "adapter_model.safetensors").read_bytes(), transcripts.hypotheses, rows))
    (weights, texts, rows), (expected, others, _) = made
    assert weights == expected and texts == others
    for row in rows:
        name, start, end, channel, _, speaker = SEGMENTS[int(row["id"][1:])]
        assert Path(row["audio"]).name == f"{name}.flac" and row["recording"] == name
        assert (row["start"], row["end"], row["channel"]) == (float(start), float(end), channel)
        assert row["columns"] == {"who": speaker}


def test_codes_of_another_part_are_refused(trials: tuple[train.TrainConfig, train.TrainConfig], tmp_path: Path) -> None:
    """The manifest was edited after tokenize: the part is as long as before."""
    source = Path(trials[0].data.train_manifest)
    rows = list(read_jsonl(source))
    audio = rows[0]["conversation"][1]
    audio |= {"start": audio["start"] + 0.5, "end": audio["end"] + 0.5}
    write_jsonl(tmp_path / "edited.jsonl", rows)
    data = replace(trials[0].data, train_manifest=str(tmp_path / "edited.jsonl"), audio_root=str(source.parent))
    with pytest.raises(DataError, match=r"edited\.jsonl:1: audio_tokens are not those of .*flac \(.* s to .*channel"):
        Trial(replace(trials[0], data=data)).adapter()
    audio["end"] = 99.0
    write_jsonl(tmp_path / "edited.jsonl", rows)
    with pytest.raises(DataError, match=r"line 1: .*flac \(.* to 99 s, .*: its end lies beyond .* end at 3\.000 s"):
        Trial(replace(trials[0], data=data)).adapter()
