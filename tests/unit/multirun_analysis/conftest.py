"""A writer of sweep folders in the format of real trials: 3 ranks x 2 learning rates x 4 temperatures by default."""

from __future__ import annotations

import itertools
import math
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.files import read_json_object, write_json, write_jsonl
from kimi_audio_ft.scoring.normalise import normalise
from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from tests.synthetic_errors import Planted
from tests.synthetic_sweep import Setting, grid_overrides, write_multirun, write_sweep, write_yaml

HEADLESS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000"),
)
REFERENCES = {
    "utt-000": "今天下午五点李晓岚在LPL赛场说七千万的奖金已经到账",
    "utt-001": "那个嗯我们的5G基站一共有三百二十座",
    "utt-002": "王梓萱和陈墨涵明天早上去杭州开会",
    "utt-003": "请把空调调到二十六度",
}
CHARACTERS = sum(len(text) for text in REFERENCES.values())
RANKS, RATES, TEMPERATURES = (2, 8, 32), (1e-3, 3e-3), (0.0, 0.1, 0.2, 0.3)


def scores(cer: float, **more: Any) -> dict[str, Any]:
    """The figures that kimi_audio_ft.scoring.score returns."""
    errors = round(cer * CHARACTERS)
    return {
        "cer": cer,
        "wer": min(1.0, 1.2 * cer),
        "mer": min(1.0, cer),
        "exact_match": max(0.0, 1 - 3 * cer),
        "substitutions": errors - errors // 4 - errors // 10,
        "deletions": errors // 4,
        "insertions": errors // 10,
        "num_references": len(REFERENCES),
        "num_reference_chars": CHARACTERS,
        **more,
    }


def heard(spoken: int, written: int, found: int) -> dict[str, Any]:
    """A term as scores.json has it."""
    return {
        "in_references": spoken,
        "in_hypotheses": written,
        "found": found,
        "recall": found / spoken if spoken else None,
        "precision": found / written if written else None,
    }


def counted(row: dict[str, Any]) -> dict[str, Any]:
    """A row of utterances.jsonl with the counts of its texts, unless it has others."""
    counts: dict[str, Any] = {}
    for normalisation, prefix in (("strict", ""), ("normalised", "normalised_")):
        reference, hypothesis = (normalise(row[side], normalisation) for side in ("reference", "hypothesis"))
        edits, chars = Levenshtein.distance(reference, hypothesis), len(reference)
        counts |= {f"{prefix}cer": edits / max(chars, 1), f"{prefix}edits": edits, f"{prefix}chars": chars}
    return {**counts, **row}


class SweepWriter:
    """Writes trial folders as ``kimi_audio_ft.train`` and Hydra do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.random = random.Random(7)

    def grid(
        self,
        ranks: tuple[int, ...] = RANKS,
        rates: tuple[float, ...] = RATES,
        temperatures: tuple[float, ...] = TEMPERATURES,
        baseline: bool = True,
    ) -> Path:
        """A finished sweep over the three parameters; CER falls with rank and rate and rises with temperature."""
        for number, (rank, rate, temperature) in enumerate(itertools.product(ranks, rates, temperatures)):
            self.trial(number, rank, rate, temperature, baseline=baseline)
        write_multirun(self.folder, grid_overrides(ranks, rates, temperatures))
        return self.folder

    def trial(
        self,
        number: int,
        rank: int = 8,
        rate: float = 1e-3,
        temperature: float = 0.0,
        baseline: bool = True,
        cer: float | None = None,
        extra_overrides: tuple[str, ...] = (),
        **record: Any,
    ) -> Path:
        """One finished trial; ``record`` replaces entries of scores.json."""
        folder, overrides = self.start(number, rank, rate, temperature, extra_overrides)
        expected = 0.62 * (2 / rank) ** 0.45 * (1e-3 / rate) ** 0.5 + 0.12 * temperature
        cer = cer if cer is not None else round(expected + self.random.uniform(-0.01, 0.01), 5)
        params = self.params(rank, rate, temperature)
        facts = {
            "trial": ",".join(overrides),
            "transcript_signatures": [f"t-{number}"],
            "decode_seconds": 3.2,
            "command": "python -m kimi_audio_ft.train " + " ".join(overrides),
            "eval_manifest": "data/demo/eval.jsonl",
            "eval_identity": "5be1a0",
            "git_commit": "906d5e5",
            "model": "kimi_audio_ft/assets/tiny",
            "signature": f"adapter-{rank}-{rate}",
            "params": params,
            "trainable_parameters": 10_000 * rank,
            "train_seconds": 41.5 if temperature == 0 else 0.0,
            "train_reused": temperature != 0,
            "final_train_loss": 0.3,
            "final_val_loss": 0.5,
        }
        self.write(folder / "scores.json", {**self.result(cer), **facts, **record})
        if baseline:
            base = {"signature": "base", "params": params, "trial": "base", "train_reused": False}
            self.write(folder / "baseline.json", {**self.result(0.68 + 0.2 * temperature), **facts, **base})
        self.curves(folder, rank, rate)
        self.utterances(folder, cer)
        return folder

    def trial_of_size(self, number: int, size: int | None, cer: float, temperature: float = 0.0) -> None:
        """A trial of a learning curve: trained for 200 steps on ``size`` conversations, all 800 with None."""
        params = self.params(8, 1e-3, temperature) | {"data.train_subset": size}
        given = f"data.train_subset={'null' if size is None else size}"
        facts = {"signature": f"a{size}", "train_conversations": size or 800, "steps": 200}
        self.trial(number, temperature=temperature, cer=cer, params=params, extra_overrides=(given,), **facts)

    def start(
        self, number: int, rank: int, rate: float, temperature: float, extra: tuple[str, ...] = ()
    ) -> tuple[Path, list[str]]:
        """What Hydra writes when a job begins."""
        overrides = [*Setting(rank, rate, temperature).overrides, *extra]
        folder = self.folder / str(number)
        write_yaml(folder / ".hydra" / "overrides.yaml", overrides)
        write_yaml(folder / ".hydra" / "config.yaml", {"lora": {"r": rank}})
        return folder, overrides

    def fail(self, number: int, rank: int = 8, rate: float = 1e-3, temperature: float = 0.0, **record: Any) -> Path:
        """One trial that failed."""
        folder, overrides = self.start(number, rank, rate, temperature)
        failure = {
            "trial": ",".join(overrides),
            "error_type": "FloatingPointError",
            "message": "loss is nan at step 12",
            "params": self.params(rank, rate, temperature),
            "command": "python -m kimi_audio_ft.train " + " ".join(overrides),
        }
        self.write(folder / "failure.json", failure | record)
        return folder

    @staticmethod
    def params(rank: int, rate: float, temperature: float) -> dict[str, Any]:
        return Setting(rank, rate, temperature).params

    @staticmethod
    def result(cer: float) -> dict[str, Any]:
        repeats = {"cer_repeats": [cer], "cer_std": 0.0}
        return scores(cer, empty_outputs=1) | {"normalised": scores(0.9 * cer)} | repeats

    def curves(self, folder: Path, rank: int, rate: float) -> None:
        lines = []
        for step in range(1, 151):
            loss = 3.2 * math.exp(-step * rate * rank**0.5 * 6) + 0.15 + self.random.uniform(0, 0.05)
            lines.append({"step": step, "epoch": step / 50, "split": "train", "loss": loss, "lr": rate})
            if step % 30 == 0:
                lines.append({"step": step, "epoch": step / 50, "split": "val", "loss": 1.15 * loss, "lr": None})
        self.write_lines(folder / "curves.jsonl", lines)

    def utterances(self, folder: Path, cer: float) -> None:
        lines = []
        for place, (identity, text) in enumerate(REFERENCES.items()):
            wrong = max(0, min(len(text) - 2, round(cer * len(text)) + place - 1))
            hypothesis = "他" * wrong + text[wrong + 1 :] + "了" if wrong else text
            rate = (wrong + 2) / len(text) if wrong else 0.0
            line = {"id": identity, "repeat": 0, "reference": text, "hypothesis": hypothesis, "cer": rate}
            lines.append(line | {"audio": f"wavs/{identity}.wav"})
        self.heard(folder / "utterances.jsonl", lines)

    @staticmethod
    def heard(file: Path, rows: Sequence[dict[str, Any]]) -> None:
        """The utterances of a trial or base, with their counts."""
        write_jsonl(file, map(counted, rows))

    write = staticmethod(write_json)
    write_lines = staticmethod(write_jsonl)


@pytest.fixture
def sweep(tmp_path: Path) -> SweepWriter:
    """A writer into an empty folder called ``sweep``."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    return SweepWriter(folder)


@pytest.fixture
def sweep_24(sweep: SweepWriter) -> Path:
    """A finished sweep of 24 trials with 6 adapters and 4 bases."""
    return sweep.grid()


@pytest.fixture
def change() -> Callable[..., None]:
    """Replaces entries of a JSON record in place."""

    def replace(path: Path, **entries: Any) -> None:
        write_json(path, read_json_object(path, "") | entries)

    return replace


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trials of 120 utterances; rank 8 makes twice the errors, and one adapter's validation loss turns."""
    truth = Planted(factors={"lora.r": {8: 2.0}}, turned={(32, 1e-4): 3.0})
    folder = tmp_path_factory.mktemp("synthetic") / "sweep"
    grid: dict[str, Any] = {"ranks": (8, 32), "rates": (5e-5, 1e-4), "temperatures": (0.0, 0.3)}
    return write_sweep(folder, **grid, utterances=120, recordings=20, planted=truth)


@pytest.fixture(scope="session")
def synthetic(synthetic_folder: Path) -> Analysis:
    """The same, loaded. Only to be read."""
    return load_sweep(synthetic_folder)


@pytest.fixture
def night(made_once: Callable[..., Path], tmp_path: Path) -> Path:
    """A finished sweep of 36 trials and 1,000 utterances, decoded once each as by default."""
    return shutil.copytree(made_once("night", partial(write_sweep, repeats=1)), tmp_path / "night")


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., str]:
    """A function that opens a page in Chromium and returns what ``--dump-dom`` or other options print."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium on PATH: the report is not drawn in this run")

    def run(page: Path, *options: str) -> str:
        command = [browser, *HEADLESS, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout

    return run
