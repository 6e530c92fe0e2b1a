"""trials.csv and trials.json: every trial and base with its settings, scores, records and statistics.

The statistics name trials by their folders. Their figures are rounded to nine digits, so that the order in which a
machine adds numbers up does not show.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from multirun_analysis.analysis import Analysis
from multirun_analysis.compare import Row
from multirun_analysis.learning import Forecast, LearningCurve, LearningStudy, PowerLaw
from multirun_analysis.records import finite
from multirun_analysis.statistics.results import (
    ALPHA,
    Effect,
    Interval,
    Needed,
    Overfitting,
    Pair,
    Reason,
    Statistics,
    key_of,
)
from multirun_analysis.sweep import UTTERANCES, Trial
from multirun_analysis.words import trial_title

# Copied from a trial's record, in the order of the CSV's columns.
RECORDED = (
    *("cer_std", "cer_repeats", "signature", "transcript_signatures", "trainable_parameters", "train_seconds"),
    *("train_reused", "decode_seconds", "final_train_loss", "final_val_loss", "num_references", "num_reference_chars"),
    *("train_conversations", "eval_manifest", "eval_identity", "model", "git_commit", "command"),
)
FILES = ("scores.json", "failure.json", "curves.jsonl", UTTERANCES, ".hydra/config.yaml")
_DIGITS = 9


def trials_json(analysis: Analysis, created: datetime) -> str:
    """The whole analysis as JSON; figures that were not finite are null."""
    sweep = analysis.sweep
    document = {
        "sweep": str(sweep.folder.resolve()),
        "created": created.isoformat(timespec="seconds"),
        "command": sweep.command,
        "reference_set": analysis.reference_set,
        "swept": analysis.swept,
        "halving": sweep.halving.document if sweep.halving else None,
        "best": analysis.best.trial.label,
        "recommended": analysis.statistics.recommended.label,
        "trials": _entries(sweep.trials, analysis),
        "baselines": _entries(sweep.baselines, analysis),
        "statistics": _statistics(analysis.statistics),
        "learning_curve": _learning(analysis.learning),
    }
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def trials_csv(analysis: Analysis) -> str:
    """One row per trial and base; params, scores and records as flat columns (lists as JSON)."""
    sweep = analysis.sweep
    rows = [_flat(entry) for entry in _entries([*sweep.trials, *sweep.baselines], analysis)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _entries(trials: Sequence[Trial], analysis: Analysis) -> list[dict[str, Any]]:
    rows = {id(row.trial): row for row in analysis.rows}
    return [_entry(trial, rows.get(id(trial)), analysis) for trial in trials]


def _entry(trial: Trial, row: Row | None, analysis: Analysis) -> dict[str, Any]:
    return {
        "name": trial.name,
        "trial": trial_title(trial, analysis.swept) if trial.is_base else trial.label,
        "kind": "baseline" if trial.is_base else "trial",
        "status": trial.status.value,
        "rank": row.rank if row else None,
        "params": trial.params,
        "scores": asdict(trial.strict) if trial.strict else None,
        "normalised": asdict(trial.normalised) if trial.normalised else None,
        **_verdict_on(trial, analysis.statistics),
        "base_cer": row.base.cer if row and row.base else None,
        "relative_reduction": row.gain if row else None,
        **{key: trial.record.get(key) for key in RECORDED},
        "error_type": trial.record.get("error_type"),
        "message": trial.record.get("message"),
        "paths": _paths(trial, analysis),
        "terms": trial.terms,
    }


def _paths(trial: Trial, analysis: Analysis) -> dict[str, str]:
    """The trial's files, relative to the sweep's folder, so that a moved sweep keeps its links."""
    folder = trial.folder.relative_to(analysis.sweep.folder)
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


def _verdict_on(trial: Trial, statistics: Statistics) -> dict[str, Any]:
    """The statistics of one trial or base; ``in_best_group`` is null where the trial was not compared with the best."""
    low, high = _bounds(statistics.intervals.get(key_of(trial)))
    normalised_low, normalised_high = _bounds(statistics.normalised_intervals.get(key_of(trial)))
    return {
        "cer_ci_low": low,
        "cer_ci_high": high,
        "normalised_cer_ci_low": normalised_low,
        "normalised_cer_ci_high": normalised_high,
        "in_best_group": trial in statistics.best_group if _is_told(trial, statistics) else None,
        "recommended": trial is statistics.recommended,
    }


def _statistics(statistics: Statistics) -> dict[str, Any]:
    needed = statistics.needed
    return {
        "method": {
            "resamples": statistics.resamples,
            "recordings": statistics.recordings,
            "utterances": statistics.utterances,
            "alpha": ALPHA,
            "family": len(statistics.pairs),
        },
        "best_group": [trial.name for trial in statistics.best_group],
        "recommended": statistics.recommended.name,
        "reason": statistics.reason.value,
        "not_compared": [trial.name for trial in (*statistics.left_out, *statistics.beyond)],
        "needed": needed and _fields(needed, "first", "second", "difference", "utterances", "recordings", "power"),
        "effects": [_effect(effect) for effect in statistics.effects],
        "overfitting": [_overfitting(verdict) for verdict in statistics.overfitting],
        "pairs": [_pair(pair) for pair in statistics.pairs],
    }


def _is_told(trial: Trial, statistics: Statistics) -> bool:
    """Whether the trial was compared with the best one, or is the best one of those that were."""
    can_tell = statistics.reason not in (Reason.TOO_FEW_RECORDINGS, Reason.NO_UTTERANCES)
    judged = trial.strict is not None and not trial.is_base
    return can_tell and judged and not any(trial is other for other in (*statistics.left_out, *statistics.beyond))


def _pair(pair: Pair) -> dict[str, Any]:
    low, high = _bounds(pair.interval)
    return {
        **_fields(pair, "first", "second", "difference"),
        **{"low": low, "high": high},
        **_fields(pair, "p_bootstrap", "p_mapsswe", "p_recordings", "p_holm"),
        "significant": pair.is_significant,
    }


def _fields(result: Pair | Needed | PowerLaw[float], *names: str) -> dict[str, Any]:
    """Fields of a result as JSON values: trials by name, figures rounded."""
    values = {name: getattr(result, name) for name in names}
    return {name: value.name if isinstance(value, Trial) else _round(value) for name, value in values.items()}


def _effect(effect: Effect) -> dict[str, Any]:
    values = []
    for value in effect.values:
        low, high = _bounds(value.interval)
        at = {"value": value.value, "effect": _round(value.effect), "low": low, "high": high, "count": value.count}
        values.append(at)
    return {"param": effect.param, "method": effect.method, "values": values}


def _overfitting(verdict: Overfitting) -> dict[str, Any]:
    figures = ("kind", "best_step", "best_epoch", "best_loss", "final_loss", "gap")
    return {
        "signature": verdict.adapter.signature,
        "trials": [trial.name for trial in verdict.adapter.trials],
        **{name: finite(getattr(verdict, name)) for name in figures},
    }


def _learning(study: LearningStudy | None) -> dict[str, Any] | None:
    if study is None:
        return None
    return {"refused": study.refused, "curves": [_curve(curve) for curve in study.curves]}


def _curve(curve: LearningCurve) -> dict[str, Any]:
    return {
        "setting": curve.setting,
        "points": [
            {"size": point.size, "cer": _round(point.error), "trials": [trial.name for trial in point.trials]}
            for point in curve.points
        ],
        "law": {
            **_fields(curve.law, "floor", "scale", "exponent", "unit"),
            "floor_interval": _interval(curve.floor),
            "exponent_interval": _interval(curve.exponent),
        },
        "is_falling": curve.is_falling,
        "off": curve.off,
        "steps": curve.steps,
        "forecasts": [_forecast(one) for one in curve.forecasts],
        "line": [_forecast(one) for one in curve.line],
    }


def _forecast(one: Forecast) -> dict[str, Any]:
    return {"size": one.size, "cer": _round(one.error), "interval": _interval(one.interval), "is_far": one.is_far}


def _interval(interval: Interval | None) -> tuple[float | None, float | None] | None:
    return None if interval is None else _bounds(interval)


def _bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (_round(interval.low), _round(interval.high))


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
