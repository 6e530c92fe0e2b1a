"""Writes the folder of a finished sweep of 36 trials x 1,000 utterances, in the commands' own formats, in seconds.

``python -m tests.synthetic_sweep FOLDER``; then ``python -m multirun_analysis FOLDER``. The texts are Mandarin, the
errors are drawn at known rates (``Planted``), and the package's own scorer counts them.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from kimi_audio_ft.config.train import DataConfig, DecodingConfig, LoraConfig, OptimConfig, TrainConfig
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.scoring.trial_scores import score_repeats, utterance_rows
from tests.synthetic_errors import Corpus, ErrorModel, Planted

Record = dict[str, Any]
RANKS, RATES, TEMPERATURES = (8, 16, 32), (2e-5, 5e-5, 1e-4), (0.0, 0.1, 0.2, 0.3)
STEPS, EPOCHS = 500, 5
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    rank: int
    rate: float
    temperature: float
    seed: int = 0

    @property
    def overrides(self) -> list[str]:
        values = [f"lora.r={self.rank}", f"optim.lr={self.rate}", f"decoding.text_temperature={self.temperature}"]
        return [*values, f"seed={self.seed}"] if self.seed else values

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
            "seed": self.seed,
        }

    @property
    def adapter(self) -> str:
        return f"adapter-{self.rank}-{self.rate:g}" + (f"-{self.seed}" if self.seed else "")


def write_sweep(
    folder: Path,
    *,
    ranks: Sequence[int] = RANKS,
    rates: Sequence[float] = RATES,
    temperatures: Sequence[float] = TEMPERATURES,
    seeds: Sequence[int] = (0,),
    utterances: int = 1000,
    recordings: int = 50,
    repeats: int = 3,
    seed: int = 0,
    planted: Planted | None = None,
) -> Path:
    """Write a sweep into ``folder``; returns it. A setting whose temperature is not 0 has so many ``repeats``."""
    writer = _Writer(Path(folder), Corpus(utterances, recordings, seed), planted or Planted(), repeats, seed)
    for number, point in enumerate(itertools.product(ranks, rates, temperatures, seeds)):
        writer.trial(number, Setting(*point))
    write_multirun(folder, grid_overrides(ranks, rates, temperatures))
    return folder


def write_ranks(folder: Path, factors: Mapping[int, float], **grid: Any) -> Path:
    """A sweep over ranks that multiply the errors so, at one rate and temperature unless ``grid`` says otherwise."""
    size: dict[str, Any] = {"rates": (5e-5,), "temperatures": (0.0,), "utterances": 300, "recordings": 30}
    return write_sweep(folder, ranks=tuple(factors), **size | grid, planted=Planted(factors={"lora.r": factors}))


def grid_overrides(ranks: Sequence[int], rates: Sequence[float], temperatures: Sequence[float]) -> list[str]:
    """What the command line of a sweep over this grid says."""
    values = {"lora.r": ranks, "optim.lr": rates, "decoding.text_temperature": temperatures}
    return [f"{key}={','.join(map(str, some))}" for key, some in values.items()]


def write_multirun(folder: Path, task: list[str]) -> None:
    """The part of Hydra's multirun.yaml that names the command."""
    overrides = {"hydra": ["hydra.sweep.dir=x", "hydra.mode=MULTIRUN"], "task": task}
    write_yaml(folder / "multirun.yaml", {"hydra": {"overrides": overrides, "job": {"name": "train", "id": "???"}}})


def write_yaml(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(value, Dumper=_DUMPER, sort_keys=False, allow_unicode=True), encoding="utf-8")


class _Writer:
    """Writes trial folders of one sweep."""

    def __init__(self, folder: Path, corpus: Corpus, planted: Planted, repeats: int, seed: int) -> None:
        self.folder, self.corpus, self.planted, self.repeats = folder, corpus, planted, repeats
        self.model = ErrorModel(corpus, planted, seed)
        self.recordings = {f"rec-{of:03d}-{n:05d}": f"rec-{of:03d}" for n, of in enumerate(corpus.recording_of)}
        self.references = dict(zip(self.recordings, corpus.references, strict=True))
        self.audio = {}
        for name, recording in self.recordings.items():
            about = {"audio": f"wavs/{recording}/{name}.wav", "recording": recording}
            self.audio[name] = about | {"seconds": round(0.24 * len(self.references[name]), 2)}
        self.identity = hashlib.sha256("\n".join(corpus.references).encode()).hexdigest()[:16]
        self.baselines: dict[float, tuple[Record, list[Record]]] = {}

    def trial(self, number: int, setting: Setting) -> None:
        """One finished trial, with what Hydra writes beside it."""
        folder = self.folder / str(number)
        self._hydra(folder, number, setting)
        scores, rows = self._decoded(setting, setting.adapter, self.planted.rate(setting.params))
        curves = _curves(setting, self.planted)
        write_jsonl(folder / "curves.jsonl", curves)
        write_jsonl(folder / "utterances.jsonl", rows)
        trained = {
            "trainable_parameters": 311_296 * setting.rank,
            "train_seconds": 1800.0 + 20 * setting.rank,
            "final_train_loss": next(row["loss"] for row in reversed(curves) if row["split"] == "train"),
            "final_val_loss": curves[-1]["loss"],
            "steps": STEPS,
        }
        facts = {
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
        reused = {"train_reused": setting.temperature != 0.0}
        write_json(folder / "scores.json", {**scores, "signature": setting.adapter, **facts, **trained, **reused})
        if setting.temperature not in self.baselines:
            factors = self.planted.factors.get("decoding.text_temperature", {})
            rate = self.planted.base_cer * factors.get(setting.temperature, 1.0)
            self.baselines[setting.temperature] = self._decoded(setting, "base", rate)
        named = {"trial": "base (no adapter)", "signature": "base"}
        scores, rows = self.baselines[setting.temperature]
        write_jsonl(folder / "baseline_utterances.jsonl", rows)
        base = {**scores, **facts, **dict.fromkeys(trained), **named}
        write_json(folder / "baseline.json", base)

    def _decoded(self, setting: Setting, adapter: str, rate: float) -> tuple[Record, list[Record]]:
        """Scores and rows of all samplings."""
        repeats = 1 if setting.temperature == 0.0 else self.repeats
        samplings = [f"{setting.temperature} {repeat}" for repeat in range(repeats)]
        errors = [self.model.errors(adapter, rate, sampling) for sampling in samplings]
        heard = [dict(zip(self.references, self.corpus.hypotheses(one), strict=True)) for one in errors]
        scores = score_repeats(self.references, heard, self.recordings)
        return scores, utterance_rows(self.references, heard, self.audio)

    def _hydra(self, folder: Path, number: int, setting: Setting) -> None:
        decoding = DecodingConfig(text_temperature=setting.temperature, repeats=self.repeats)
        data = DataConfig(train_manifest="data/synthetic/train.jsonl", eval_manifest="data/synthetic/eval.jsonl")
        config = TrainConfig(
            data=data, lora=LoraConfig(r=setting.rank), optim=OptimConfig(lr=setting.rate), decoding=decoding
        )
        job = {"name": "train", "num": number, "override_dirname": ",".join(setting.overrides)}
        hydra = {"job": job, "mode": "MULTIRUN", "overrides": {"hydra": [], "task": setting.overrides}}
        write_yaml(folder / ".hydra" / "config.yaml", asdict(config))
        write_yaml(folder / ".hydra" / "hydra.yaml", {"hydra": hydra})
        write_yaml(folder / ".hydra" / "overrides.yaml", setting.overrides)


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the folder of a synthetic sweep.")
    parser.add_argument("folder", type=Path)
    for name, default in (("utterances", 1000), ("recordings", 50), ("repeats", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    write_sweep(**vars(parser.parse_args()))
