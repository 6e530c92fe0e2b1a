"""Evaluations with planted label errors, in the files that ``kimi_audio_ft.evaluate`` writes; and recordings."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.files import write_json, write_jsonl
from multirun_analysis.labels.evidence import Utterance

WORDS = (
    *("今天", "下午", "会议", "投资", "公司", "利润", "增长", "市场", "我们", "认为", "可能", "问题", "需要", "讨论"),
    *("三百万", "二十五", "第一季度", "北京", "上海", "王总", "李经理", "项目", "风险", "数据", "比较", "稳定", "LPL"),
)


def write_evaluation(folder: Path, signature: str, rows: Sequence[Mapping[str, Any]], cer: float = 0.2) -> Path:
    """One evaluation's folder, as a single run or as a job of a multirun."""
    record = {"cer": cer, "signature": signature, "params": {"decoding.text_temperature": 0.0}}
    write_json(folder / "scores.json", record)
    write_jsonl(folder / "utterances.jsonl", rows)
    return folder


def manifest_line(name: str, text: str) -> dict[str, Any]:
    """A recording of 25 codes with this transcript."""
    conversation = [
        {"role": "user", "message_type": "audio", "content": "a.wav", "audio_tokens": [1] * 25},
        {"role": "assistant", "message_type": "text", "content": text},
    ]
    return {"id": name, "group": "tuesday", "task_type": "understanding", "conversation": conversation}


def spoken(name: str, path: Path | None, reference: str) -> Utterance:
    """An utterance that two adapters hear as 今天开会."""
    votes = dict.fromkeys("01", "今天开会")
    return Utterance(name, reference, None if path is None else str(path), name, None, votes=votes)


@dataclass(frozen=True)
class Planted:
    """A multirun over adapters on a data set some of whose references are wrong, and which."""

    folder: Path
    wrong: frozenset[str]
    rows: list[list[dict[str, Any]]]


def plant(
    folder: Path, seed: int, references: int = 400, share: float = 0.05, adapters: int = 3, losses: bool = True
) -> Planted:
    """Utterances at 3 to 5 characters a second; a share of references is swapped or has half of its words replaced.

    Every adapter hears the true text and gets a character in ten wrong, by itself; its loss is about that of a good
    transcript for right references, and higher, but with overlap, for wrong ones.
    """
    rng = random.Random(seed)
    truth = {f"u{number:04d}": _sentence(rng) for number in range(references)}
    seconds = {name: len(text) / rng.uniform(3.0, 5.0) for name, text in truth.items()}
    wrong = rng.sample(list(truth), round(share * references))
    written = dict(truth)
    half = len(wrong) // 2
    for name, other in zip(wrong[:half], wrong[1:half] + wrong[:1], strict=True):
        written[name] = truth[other]
    for name in wrong[half:]:
        written[name] = _corrupted(truth[name], rng)
    jobs = []
    for adapter in range(adapters):
        rows = []
        for name, text in truth.items():
            heard = "".join(rng.choice(WORDS)[0] if rng.random() < 0.1 else char for char in text)
            loss = rng.lognormvariate(1.0 if name in wrong else -0.7, 0.5)
            row = {"id": name, "repeat": 0, "reference": written[name], "hypothesis": heard, "cer": 0.1, "audio": None}
            rows.append({**row, "seconds": round(seconds[name], 2), **({"loss": loss} if losses else {})})
        jobs.append(rows)
        write_evaluation(folder / str(adapter), f"adapter{adapter}", rows, cer=0.1 + adapter / 100)
    return Planted(folder, frozenset(wrong), jobs)


def plant_kinds(folder: Path, seed: int, references: int = 430) -> dict[str, str]:
    """Two adapters and a base on references of which a twentieth is wrong; returns the kind of error by id.

    A third each is swapped, cut off, or has another digit or two other characters. Losses of tokens are exponential, as
    measured on the demo's corpus: 0.5 nats in the mean for right characters, 0.15 at the end, 4 for wrong ones. Of the
    characters the adapters hear 15 and 35 % wrong, the base 90 %.
    """
    rng = random.Random(seed)
    truth = {f"u{number:04d}": f"{_sentence(rng)}{rng.randint(10, 99)}个" for number in range(references)}
    chosen = rng.sample(list(truth), references // 20)
    kinds = {name: ("swapped", "truncated", "subtle")[place % 3] for place, name in enumerate(chosen)}
    swapped = [name for name in chosen if kinds[name] == "swapped"]
    written = truth | {one: truth[other] for one, other in zip(swapped, swapped[1:] + swapped[:1], strict=True)}
    for name, kind in kinds.items():
        text = truth[name]
        if kind == "truncated":
            written[name] = text[: len(text) // 2]
        elif kind == "subtle":
            digit = str((int(text[-2]) + rng.randint(1, 9)) % 10)
            written[name] = text[:-2] + digit + text[-1] if rng.random() < 0.5 else "哪里" + text[2:]
    for number, (adapter, wrong) in enumerate({"good": 0.15, "worse": 0.35, "base": 0.9}.items()):
        rows = []
        for name, text in truth.items():
            said, reference = truth[name], written[name]
            losses = [
                rng.expovariate(1 / (0.5 if said[place : place + 1] == char else 4.0))
                for place, char in enumerate(reference)
            ]
            losses.append(rng.expovariate(1 / (0.15 if len(said) == len(reference) else 1.5)))
            heard = "".join(rng.choice(WORDS)[0] if rng.random() < wrong else char for char in said)
            row = {"id": name, "repeat": 0, "reference": reference, "hypothesis": heard, "cer": wrong, "audio": None}
            tokens = {"loss": sum(losses) / len(losses), "token_losses": [*enumerate(losses)]}
            rows.append(row | {"seconds": len(text) / rng.uniform(3.0, 5.0)} | tokens)
        write_evaluation(folder / str(number), adapter, rows, cer=wrong)
    return kinds


def _sentence(rng: random.Random) -> str:
    return "".join(rng.choices(WORDS, k=rng.randint(4, 12)))


def _corrupted(text: str, rng: random.Random) -> str:
    middle = len(text) // 2
    return text[:middle] + _sentence(rng)[: len(text) - middle]


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Planted]:
    """Plants errors into a multirun in ``tmp_path / NAME``; see ``plant``."""
    return lambda seed=0, name="multirun", **options: plant(tmp_path / name, seed, **options)


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Path]:
    """A sound as wav and as flac, another of the same length, and a file that is no sound."""
    rng = np.random.default_rng(0)
    sound, other = (np.round(rng.uniform(-9000, 9000, 1600)).astype(np.int16) for _ in range(2))
    paths = {"wav": tmp_path / "a.wav", "flac": tmp_path / "b.flac", "other": tmp_path / "c.wav"}
    for name, samples in (("wav", sound), ("flac", sound), ("other", other)):
        soundfile.write(paths[name], samples, 16_000)
    paths["broken"] = tmp_path / "d.wav"
    paths["broken"].write_text("no sound", encoding="utf-8")
    return paths
