"""trials.csv and trials.json: every trial and every base, with what a spreadsheet or a script wants to know."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from multirun_analysis.compare import Comparison, Row
from multirun_analysis.report.board import terms_of
from multirun_analysis.statistics.document import statistics_document, trial_document
from multirun_analysis.sweep import Trial
from multirun_analysis.words import learning_document, trial_title

# Facts of a trial that are copied from its record, in the order of the CSV's columns.
RECORDED = (
    *("cer_std", "cer_repeats", "signature", "transcript_signatures", "trainable_parameters", "train_seconds"),
    *("train_reused", "decode_seconds", "final_train_loss", "final_val_loss", "num_references", "num_reference_chars"),
    *("train_conversations", "eval_manifest", "eval_identity", "model", "git_commit", "command"),
)
FILES = ("scores.json", "failure.json", "curves.jsonl", "utterances.jsonl", ".hydra/config.yaml")


def trials_json(comparison: Comparison, created: datetime) -> str:
    """The whole comparison as JSON; figures that were not finite are null."""
    sweep = comparison.sweep
    document = {
        "sweep": str(sweep.folder.resolve()),
        "created": created.isoformat(timespec="seconds"),
        "command": sweep.command,
        "reference_set": comparison.reference_set,
        "swept": comparison.swept,
        "halving": sweep.halving.document if sweep.halving else None,
        "best": comparison.best.trial.label,
        "recommended": comparison.statistics.recommended.label,
        "trials": _entries(sweep.trials, comparison),
        "baselines": _entries(sweep.baselines, comparison),
        "statistics": statistics_document(comparison.statistics),
        "learning_curve": learning_document(comparison.learning),
    }
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def trials_csv(comparison: Comparison) -> str:
    """One row per trial and base; params, scores and records as flat columns (lists as JSON)."""
    sweep = comparison.sweep
    rows = [_flat(entry) for entry in _entries([*sweep.trials, *sweep.baselines], comparison)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _entries(trials: Sequence[Trial], comparison: Comparison) -> list[dict[str, Any]]:
    rows = {id(row.trial): row for row in comparison.rows}
    return [_entry(trial, rows.get(id(trial)), comparison) for trial in trials]


def _entry(trial: Trial, row: Row | None, comparison: Comparison) -> dict[str, Any]:
    return {
        "name": trial.name,
        "trial": trial_title(trial, comparison.swept) if trial.is_base else trial.label,
        "kind": "baseline" if trial.is_base else "trial",
        "status": trial.status.value,
        "rank": row.rank if row else None,
        "params": trial.params,
        "scores": asdict(trial.strict) if trial.strict else None,
        "normalised": asdict(trial.normalised) if trial.normalised else None,
        **trial_document(trial, comparison.statistics),
        "base_cer": row.base.cer if row and row.base else None,
        "relative_reduction": row.gain if row else None,
        **{key: trial.record.get(key) for key in RECORDED},
        "error_type": trial.record.get("error_type"),
        "message": trial.record.get("message"),
        "paths": _paths(trial, comparison),
        "terms": terms_of(trial),
    }


def _paths(trial: Trial, comparison: Comparison) -> dict[str, str]:
    """The trial's files, relative to the sweep's folder, so that a moved sweep keeps its links."""
    folder = trial.folder.relative_to(comparison.sweep.folder)
    names = ("baseline.json",) if trial.is_base else FILES
    found = {name: (folder / name).as_posix() for name in names if (trial.folder / name).is_file()}
    return {"folder": folder.as_posix(), **found}


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Params and strict scores get their bare names as columns, normalised scores the prefix ``normalised.``.

    Recall and precision of a user's terms are the last columns: ``terms.TERM.recall``, ``terms.TERM.precision``.
    """
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if key in ("params", "scores"):
            flat.update(value or {})
        elif key == "normalised":
            flat.update({f"normalised.{name}": score for name, score in (value or {}).items()})
        elif key == "paths":
            flat["folder"] = value["folder"]
        elif key == "terms":
            flat.update(
                {f"terms.{term}.{of}": one[of] for term, one in value.items() for of in ("recall", "precision")}
            )
        else:
            flat[key] = value
    return {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in flat.items()}
