"""Writes the folder of a finished sweep of 36 trials x 1,000 utterances, in the commands' own formats, in seconds.

``python -m tests.synthetic_sweep FOLDER``; then ``python -m multirun_analysis FOLDER``. The texts are Mandarin, the
errors are drawn at known rates (``Planted``), and the scores are counted on the texts as ``kimi_audio_ft.scoring``
does.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from kimi_audio_ft.config.train import DataConfig, DecodingConfig, LoraConfig, OptimConfig, TrainConfig
from tests.synthetic_errors import Corpus, ErrorModel, Planted
from tests.synthetic_scores import Record, Scorer

RANKS, RATES, TEMPERATURES = (8, 16, 32), (2e-5, 5e-5, 1e-4), (0.0, 0.1, 0.2, 0.3)
STEPS, EPOCHS = 500, 5
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    rank: int
    rate: float
    temperature: float

    @property
    def overrides(self) -> list[str]:
        return [f"lora.r={self.rank}", f"optim.lr={self.rate}", f"decoding.text_temperature={self.temperature}"]

    @property
    def params(self) -> Record:
        return {
            "lora.r": self.rank,
            "lora.lora_alpha": 2 * self.rank,
            "lora.lora_dropout": 0.05,
            "lora.target_modules": "decoder",
            "optim.lr": self.rate,
            "decoding.text_temperature": self.temperature,
            "decoding.text_top_k": 5,
            "seed": 0,
        }

    @property
    def adapter(self) -> str:
        return f"adapter-{self.rank}-{self.rate:g}"


def write_sweep(
    folder: Path,
    *,
    ranks: Sequence[int] = RANKS,
    rates: Sequence[float] = RATES,
    temperatures: Sequence[float] = TEMPERATURES,
    utterances: int = 1000,
    recordings: int = 50,
    repeats: int = 3,
    seed: int = 0,
    planted: Planted | None = None,
    left_out: Iterable[int] = (),
) -> Path:
    """Write a sweep over ranks, rates and temperatures into ``folder``; returns it.

    Args:
        repeats: samplings of every setting whose temperature is not 0.
        left_out: numbers of trials that are not there, as in a sweep that is not done.
    """
    planted = planted or Planted()
    writer = _Writer(Path(folder), Corpus(utterances, recordings, seed), planted, repeats, seed)
    grid = [Setting(*point) for point in itertools.product(ranks, rates, temperatures)]
    missing = set(left_out)
    for number, setting in enumerate(grid):
        if number not in missing:
            writer.trial(number, setting)
    task = [
        f"{key}={','.join(map(str, values))}"
        for key, values in zip(
            ("lora.r", "optim.lr", "decoding.text_temperature"), (ranks, rates, temperatures), strict=True
        )
    ]
    overrides = {"hydra": [f"hydra.sweep.dir={folder}", "hydra.mode=MULTIRUN"], "task": task}
    _write_yaml(folder / "multirun.yaml", {"hydra": {"overrides": overrides, "job": {"name": "train", "id": "???"}}})
    return folder


class _Writer:
    """Writes trial folders of one sweep."""

    def __init__(self, folder: Path, corpus: Corpus, planted: Planted, repeats: int, seed: int) -> None:
        self.folder, self.corpus, self.planted, self.repeats = folder, corpus, planted, repeats
        self.model, self.scorer = ErrorModel(corpus, planted, seed), Scorer(corpus)
        self.identity = hashlib.sha256("\n".join(corpus.references).encode()).hexdigest()[:16]
        self.baselines: dict[float, Record] = {}

    def trial(self, number: int, setting: Setting) -> None:
        """One finished trial, with what Hydra writes beside it."""
        folder = self.folder / str(number)
        self._hydra(folder, number, setting)
        scores, rows = self._decoded(setting, setting.adapter, self.planted.rate(setting.params))
        curves = _curves(setting, self.planted)
        _write_lines(folder / "curves.jsonl", curves)
        _write_lines(folder / "utterances.jsonl", rows)
        trained = {
            "trainable_parameters": 311_296 * setting.rank,
            "train_seconds": 1800.0 + 20 * setting.rank,
            "final_train_loss": next(row["loss"] for row in reversed(curves) if row["split"] == "train"),
            "final_val_loss": curves[-1]["loss"],
            "steps": STEPS,
        }
        facts = self._facts(setting)
        reused = {"train_reused": setting.temperature != 0.0}
        self._write(folder / "scores.json", {**scores, "signature": setting.adapter, **facts, **trained, **reused})
        if setting.temperature not in self.baselines:
            factors = self.planted.factors.get("decoding.text_temperature", {})
            rate = self.planted.base_cer * factors.get(setting.temperature, 1.0)
            self.baselines[setting.temperature] = self._decoded(setting, "base", rate)[0]
        named = {"trial": "base (no adapter)", "signature": "base"}
        nothing = dict.fromkeys(trained)
        base = {**self.baselines[setting.temperature], **facts, **nothing, **named}
        self._write(folder / "baseline.json", base)

    def _decoded(self, setting: Setting, adapter: str, rate: float) -> tuple[Record, list[Record]]:
        """Scores and rows of all samplings."""
        repeats = 1 if setting.temperature == 0.0 else self.repeats
        samplings = [f"{setting.temperature} {repeat}" for repeat in range(repeats)]
        errors = [self.model.errors(adapter, rate, sampling) for sampling in samplings]
        return self.scorer.scored([self.corpus.hypotheses(one) for one in errors])

    def _facts(self, setting: Setting) -> Record:
        return {
            "trial": ",".join(setting.overrides),
            "transcript_signatures": [f"{setting.adapter}-{setting.temperature}"],
            "params": setting.params,
            "decode_seconds": 95.0,
            "command": " ".join(["python -m kimi_audio_ft.train", *setting.overrides, "hydra.mode=RUN"]),
            "eval_manifest": "data/synthetic/eval.jsonl",
            "eval_identity": self.identity,
            "git_commit": "906d5e5c0ffee0000000000000000000000000000",
            "model": "moonshotai/Kimi-Audio-7B-Instruct",
        }

    def _hydra(self, folder: Path, number: int, setting: Setting) -> None:
        decoding = DecodingConfig(text_temperature=setting.temperature, repeats=self.repeats)
        data = DataConfig(train_manifest="data/synthetic/train.jsonl", eval_manifest="data/synthetic/eval.jsonl")
        config = TrainConfig(
            data=data, lora=LoraConfig(r=setting.rank), optim=OptimConfig(lr=setting.rate), decoding=decoding
        )
        job = {"name": "train", "num": number, "override_dirname": ",".join(setting.overrides)}
        hydra = {"job": job, "mode": "MULTIRUN", "overrides": {"hydra": [], "task": setting.overrides}}
        _write_yaml(folder / ".hydra" / "config.yaml", asdict(config))
        _write_yaml(folder / ".hydra" / "hydra.yaml", {"hydra": hydra})
        _write_yaml(folder / ".hydra" / "overrides.yaml", setting.overrides)

    @staticmethod
    def _write(path: Path, record: Record) -> None:
        path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _curves(setting: Setting, planted: Planted) -> list[Record]:
    """Rows as ``CurveRecorder`` makes them: a training loss every 10 steps, a validation loss after every epoch."""
    rng = random.Random(setting.adapter)
    speed = 25 * setting.rate / 5e-5
    turn = planted.turned.get((setting.rank, setting.rate), math.inf)
    rows: list[Record] = []
    for step in range(10, STEPS + 1, 10):
        epoch = step * EPOCHS / STEPS
        loss = 0.3 + 2.2 * math.exp(-step * speed / STEPS / 2)
        rate = setting.rate * (1 - step / STEPS)
        noisy = loss + rng.uniform(-0.01, 0.01)
        rows.append({"step": step, "epoch": epoch, "split": "train", "loss": noisy, "lr": rate})
        if step % (STEPS // EPOCHS) == 0:
            validation = 1.08 * loss + 0.06 * max(0.0, epoch - turn)
            rows.append({"step": step, "epoch": epoch, "split": "val", "loss": validation, "lr": None})
    return rows


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")


def _write_yaml(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(value, Dumper=_DUMPER, sort_keys=False, allow_unicode=True), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the folder of a synthetic sweep.")
    parser.add_argument("folder", type=Path)
    for name, default in (("utterances", 1000), ("recordings", 50), ("repeats", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    write_sweep(**vars(parser.parse_args()))
