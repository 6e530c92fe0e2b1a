"""What a trial's folder says about it: ``scores.json``, ``utterances.jsonl``, ``curves.jsonl``, ``failure.json``."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kimi_audio_ft.paths import PACKAGE
from kimi_audio_ft.scoring import score, utterance_scores
from kimi_audio_ft.store import write_json, write_jsonl

# Parameters that identify a trial in tables, beside whatever else its overrides name.
SHOWN = (
    "lora.r",
    "lora.lora_alpha",
    "lora.lora_dropout",
    "lora.target_modules",
    "optim.lr",
    "decoding.text_temperature",
    "decoding.text_top_k",
    "seed",
    "data.prompt",
    "data.train_subset",
    "data.train_subset_seed",
    "data.augment.speeds",
    "data.augment.gains_db",
    "data.augment.time_masks",
    "data.augment.channel_masks",
)


@dataclass(frozen=True)
class TrialFacts:
    """Who a trial is: its label, the command that repeats it alone, and its flat config."""

    name: str
    command: str
    flat: Mapping[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        """The parameters shown in tables."""
        return {key: self.flat[key] for key in SHOWN if key in self.flat}


def score_repeats(references: Mapping[str, str], hypotheses: list[dict[str, str]]) -> dict[str, Any]:
    """Scores of one or several samplings of an evaluation set: rates and counts are means over the repeats."""
    strict = [score(references, repeat) for repeat in hypotheses]
    normalised = [score(references, repeat, "normalised") for repeat in hypotheses]
    rates = [row["cer"] for row in strict]
    return {
        **_mean(strict),
        "normalised": _mean(normalised),
        "cer_repeats": rates,
        "cer_std": statistics.stdev(rates) if len(rates) > 1 else 0.0,
    }


def _mean(rows: list[dict[str, float | int]]) -> dict[str, float | int]:
    if len(rows) == 1:
        return rows[0]
    same = ("num_references", "num_reference_chars")
    return {key: rows[0][key] if key in same else statistics.fmean(row[key] for row in rows) for key in rows[0]}


def utterance_rows(
    references: Mapping[str, str], hypotheses: list[dict[str, str]], audio: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """One row per reference and repeat."""
    rows = []
    for repeat, answers in enumerate(hypotheses):
        rates = utterance_scores(references, answers)
        for key, reference in references.items():
            rows.append(
                {
                    "id": key,
                    "repeat": repeat,
                    "reference": reference,
                    "hypothesis": answers.get(key, ""),
                    "cer": rates[key],
                    "audio": audio.get(key),
                }
            )
    return rows


def write_scores(folder: Path, name: str, scores: Mapping[str, Any]) -> None:
    """Write ``scores.json`` or ``baseline.json``."""
    write_json(folder / name, scores)


def write_utterances(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``utterances.jsonl``."""
    write_jsonl(folder / "utterances.jsonl", rows)


def write_failure(folder: Path, facts: TrialFacts, error: Exception) -> None:
    """Write ``failure.json``, in the place of scores."""
    (folder / "scores.json").unlink(missing_ok=True)
    failure = {"trial": facts.name, "error_type": type(error).__name__, "message": str(error)}
    write_json(folder / "failure.json", {**failure, "params": facts.params, "command": facts.command})


@cache
def git_commit() -> str | None:
    """Commit of this checkout, or None outside one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
