"""trials.csv and trials.json: every trial, base and combination with its settings, scores, records and statistics.

The statistics name trials by their folders. Their figures are rounded to nine digits, so that the order in which a
machine adds numbers up does not show.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kimi_audio_ft.scoring.intervals import RESAMPLES
from kimi_audio_ft.sweep_folder import BASE_UTTERANCES, UTTERANCES, hydras_folder
from kimi_audio_ft.text import no_formula
from multirun_analysis.analysis import Analysis
from multirun_analysis.compare import Row
from multirun_analysis.learning import LearningCurve
from multirun_analysis.messages import ENGLISH
from multirun_analysis.records import finite
from multirun_analysis.report.combined import Combinations, Combined, Tested
from multirun_analysis.report.stored_combinations import combinations_shown
from multirun_analysis.settings import Setting
from multirun_analysis.statistics.randomisation import FLIPS
from multirun_analysis.statistics.results import ALPHA, EffectValue, Gain, Interval, Overfitting, Pair, Statistics
from multirun_analysis.statistics.seeds import SeedErrors
from multirun_analysis.statistics.slices import Slicing
from multirun_analysis.sweep import Trial
from multirun_analysis.unseen import Held, Unseen
from multirun_analysis.words import setting_title, trial_title

# Copied from a trial's record, in the order of the CSV's columns.
RECORDED = (
    *("cer_std", "cer_repeats", "signature", "transcript_signatures", "trainable_parameters", "train_seconds"),
    *("train_reused", "decode_seconds", "final_train_loss", "final_val_loss", "num_references", "num_reference_chars"),
    *("train_conversations", "eval_manifest", "eval_identity", "model", "git_commit", "command"),
)
OF_A_SET = ("cer", "wer", "mer", "normalised_cer", "num_references")
FILES = ("scores.json", "failure.json", "curves.jsonl", UTTERANCES)
_DIGITS = 9


def trials_json(analysis: Analysis, created: datetime) -> str:
    """The whole analysis as JSON; figures that were not finite are null."""
    sweep, study, combined = analysis.sweep, analysis.learning, combinations_shown(analysis)
    document = {
        "sweep": str(sweep.folder.resolve()),
        "created": created.isoformat(timespec="seconds"),
        "command": sweep.command,
        "reference_set": analysis.reference_set,
        "swept": analysis.swept,
        "rank_by": analysis.rank_by,
        "halving": sweep.halving.document if sweep.halving else None,
        "best": analysis.best.trial.label,
        "recommended": analysis.statistics.recommended.label,
        "trials": _entries(sweep.trials, analysis),
        "baselines": _entries(sweep.baselines, analysis),
        **({"combinations": _combinations(combined, analysis)} if combined else {}),
        **({"settings": [_setting(one, analysis) for one in analysis.settings]} if analysis.has_seeds else {}),
        "statistics": _statistics(analysis.statistics),
        "slices": [_slicing(slicing) for slicing in analysis.slices.slicings],
        "unseen": _unseen(analysis.unseen),
        "learning_curve": study and {"refused": study.refused, "curves": [_curve(curve) for curve in study.curves]},
    }
    return _lines(document) + "\n"


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _lines(value: Any, depth: int = 3) -> str:
    """JSON with a line for each trial and pair; Python's own indentation takes ten times as long."""
    if depth and isinstance(value, dict):
        return "{\n" + ",\n".join(f"{_ENCODE(key)}: {_lines(item, depth - 1)}" for key, item in value.items()) + "\n}"
    if depth and isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(map(_ENCODE, value)) + "\n]"
    return _ENCODE(value)


def trials_csv(analysis: Analysis) -> str:
    """One row per trial, base and combination; params, scores and records as flat columns (lists as JSON)."""
    sweep, combined = analysis.sweep, combinations_shown(analysis)
    entries = _entries([*sweep.trials, *sweep.baselines], analysis)
    rows = [_flat(entry) for entry in [*entries, *(_combined_entries(combined, analysis) if combined else ())]]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _entries(trials: Sequence[Trial], analysis: Analysis) -> list[dict[str, Any]]:
    rows = {row.trial: row for row in analysis.rows}
    return [_entry(trial, rows.get(trial), analysis) for trial in trials]


def _entry(trial: Trial, row: Row | None, analysis: Analysis) -> dict[str, Any]:
    return {
        "name": trial.name,
        "trial": trial_title(trial, analysis.swept) if trial.is_base else trial.label,
        "kind": "baseline" if trial.is_base else "trial",
        "status": trial.status.value,
        "rank": row.rank if row else None,
        "rate": trial.rate if trial.strict else None,
        "params": trial.params,
        "scores": asdict(trial.strict) if trial.strict else None,
        "normalised": asdict(trial.normalised) if trial.normalised else None,
        **({"sets": trial.sets} if trial.sets else {}),
        **_verdict_on(trial, analysis),
        "base_cer": row.base.cer if row and row.base else None,
        "relative_reduction": row.gain if row else None,
        **{key: trial.record.get(key) for key in RECORDED},
        "error_type": trial.record.get("error_type"),
        "message": trial.record.get("message"),
        "paths": _paths(trial, analysis),
        "terms": trial.terms,
    }


def _combinations(found: Combinations, analysis: Analysis) -> dict[str, Any]:
    """Combinations of trials against the best of those combined; the test set as of ``Tested``."""
    rows = _combined_entries(found, analysis)
    tested = found.tested and _with_bounds(found.tested)
    return {"trial": found.trial, "rate": found.rate, "chosen": found.chosen, "rows": rows, "test": tested}


def _combined_entries(found: Combinations, analysis: Analysis) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "trial": row.title(ENGLISH),
            "kind": "combination",
            "status": trial.status.value,
            "rate": trial.rate,
            "params": {},
            "scores": asdict(trial.strict) if trial.strict else None,
            "normalised": asdict(trial.normalised) if trial.normalised else None,
            **({"sets": trial.sets} if trial.sets else {}),
            **({"paths": {"folder": _inside(trial.folder, analysis)}} if found.folder else {}),
            "terms": trial.terms,
            "combination": _against_single(row),
        }
        for row, trial in found.scored
    ]


def _against_single(row: Combined) -> dict[str, Any]:
    """What a combination is made of, what it costs in use, and what it gains."""
    told = _with_bounds(row)
    return {key: told[key] for key in told if key not in ("name", "rate")}


def _setting(setting: Setting, analysis: Analysis) -> dict[str, Any]:
    """A setting or a base over its seeds; ``trials`` by their names, the lowest rate first."""
    low, high = _bounds(analysis.statistics.setting_intervals.get(setting.trial))
    return {
        "setting": setting_title(setting.trial, analysis),
        "kind": "baseline" if setting.is_base else "setting",
        "trials": [trial.name for trial in setting.trials],
        "rate": _plain(setting.rate),
        "rate_std": _plain(setting.spread),
        "rate_lowest": setting.lowest,
        "rate_highest": setting.highest,
        "rate_ci_low": low,
        "rate_ci_high": high,
    }


def _paths(trial: Trial, analysis: Analysis) -> dict[str, str]:
    """The trial's files, relative to the sweep's folder, so that a moved sweep keeps its links."""
    config = f"{hydras_folder(trial.folder).name}/config.yaml"
    names = ("baseline.json", BASE_UTTERANCES) if trial.is_base else (*FILES, config)
    there = [name for name in names if (trial.folder / name).is_file()]
    return {
        "folder": _inside(trial.folder, analysis),
        **{name: _inside(trial.folder / name, analysis) for name in there},
    }


def _inside(path: Path, analysis: Analysis) -> str:
    return path.relative_to(analysis.sweep.folder).as_posix()


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Params and strict scores get their bare names as columns, normalised scores the prefix ``normalised.``.

    Rates of several evaluation sets are ``sets.NAME.cer`` and so on, and what a combination is made of
    ``combination.trials`` and so on. Recall and precision of a user's terms are the
    last columns: ``terms.TERM.recall``, ``terms.TERM.precision``.
    """
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if key in ("params", "scores"):
            flat.update(value or {})
        elif key == "normalised":
            flat.update({f"normalised.{name}": score for name, score in (value or {}).items()})
        elif key == "sets":
            flat.update({f"sets.{name}.{of}": one.get(of) for name, one in value.items() for of in OF_A_SET})
        elif key == "combination":
            flat.update({f"combination.{name}": one for name, one in value.items()})
        elif key == "paths":
            flat["folder"] = value["folder"]
        elif key == "terms":
            flat.update(
                {f"terms.{term}.{of}": one[of] for term, one in value.items() for of in ("recall", "precision")}
            )
        else:
            flat[key] = value
    cells = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in flat.items()}
    return {no_formula(key): no_formula(value) for key, value in cells.items()}


def _verdict_on(trial: Trial, analysis: Analysis) -> dict[str, Any]:
    """The statistics of one trial or base; ``in_best_group`` is null where the trial was not compared with the best.

    Where seeds are swept, what is said of its setting and no interval is said of the trial too.
    """
    statistics, of = analysis.statistics, analysis.setting_of.get(trial)
    compared = of.trial if of else trial
    low, high = _bounds(statistics.strict_intervals.get(trial))
    rate_low, rate_high = _bounds(statistics.intervals.get(trial))
    normalised_low, normalised_high = _bounds(statistics.normalised_intervals.get(trial))
    standing = next((one for one in statistics.standings if one.trial is compared), None)
    return {
        "rate_ci_low": rate_low,
        "rate_ci_high": rate_high,
        "cer_ci_low": low,
        "cer_ci_high": high,
        "normalised_cer_ci_low": normalised_low,
        "normalised_cer_ci_high": normalised_high,
        "in_best_group": compared in statistics.best_group if standing and not trial.is_base else None,
        "p_best": standing and _plain(standing.p_best),
        "most_above_best": standing and _plain(standing.excess),
        "recommended": trial is statistics.recommended,
    }


def _statistics(statistics: Statistics) -> dict[str, Any]:
    return {
        "method": {
            "resamples": RESAMPLES,
            "recordings": statistics.recordings,
            "utterances": statistics.utterances,
            "alpha": ALPHA,
            "family": len(statistics.pairs),
            "randomisations": FLIPS,
            "margin": statistics.margin,
            **_of_seeds(statistics.seeds),
        },
        "best_group": _plain(statistics.best_group),
        "recommended": statistics.recommended.name,
        "reason": statistics.reason.value,
        "gain": statistics.gain and _with_bounds(statistics.gain),
        "not_compared": _plain([*statistics.left_out, *statistics.beyond]),
        "needed": _plain(statistics.needed),
        "gain_needed": _plain(statistics.gain_needed),
        "half_split": _plain(statistics.half_split),
        "effects": [
            {
                "param": effect.param,
                "method": effect.method,
                # The value as it was given, not rounded.
                "values": [_with_bounds(one) | {"value": one.value} for one in effect.values],
            }
            for effect in statistics.effects
        ],
        **({"search": _plain(statistics.search)} if statistics.search else {}),
        "overfitting": [_overfitting(verdict) for verdict in statistics.overfitting],
        "pairs": [_with_bounds(pair) | {"significant": pair.is_significant} for pair in statistics.pairs],
    }


def _of_seeds(seeds: SeedErrors | None) -> dict[str, Any]:
    if seeds is None:
        return {}
    return {"seed_spread": _plain(float(seeds.spread[0])), "seed_degrees_of_freedom": int(seeds.freedom[0])}


def _slicing(slicing: Slicing) -> dict[str, Any]:
    slices = [{**_plain(one), "verdict": one.verdict} for one in slicing.slices]
    return {**_plain(slicing), "slices": slices}


def _unseen(unseen: Unseen) -> dict[str, Any] | None:
    """Results on the test set and on the guard sets; None without any."""
    if unseen.test is None and not unseen.guards:
        return None
    test = unseen.test and {"manifest": unseen.manifest, "looks": unseen.looks, **_held(unseen.test)}
    return {"test": test, "guards": {name: [_held(one) for one in some] for name, some in unseen.guards}}


def _held(held: Held) -> dict[str, Any]:
    low, high = _bounds(held.interval)
    rates = {"rate": held.trial.rate, "rate_ci_low": low, "rate_ci_high": high}
    cers = {"base_rate": held.base and held.base.rate, "cer": held.trial.cer, "base_cer": held.base and held.base.cer}
    return {"trial": held.of.name, **_plain(rates | cers), "gain": held.gain and _with_bounds(held.gain)}


def _overfitting(verdict: Overfitting) -> dict[str, Any]:
    told = _plain(verdict)
    adapter = told.pop("adapter")
    return {"signature": adapter["signature"], "trials": adapter["trials"], **told}


def _curve(curve: LearningCurve) -> dict[str, Any]:
    told = _plain(curve)
    return told | {
        "law": {**told["law"], "floor_interval": told.pop("floor"), "exponent_interval": told.pop("exponent")}
    }


def _with_bounds(result: Pair | EffectValue | Gain | Combined | Tested) -> dict[str, Any]:
    """A result with the bounds of its interval as ``low`` and ``high``."""
    told = _plain(result)
    del told["interval"]
    low, high = _bounds(result.interval)
    return {**told, "low": low, "high": high}


def _bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else _plain(interval)


def _plain(result: Any) -> Any:
    """A result as JSON: its fields by name, trials by theirs, intervals as two bounds, figures rounded."""
    if isinstance(result, Trial):
        return result.name
    if isinstance(result, Interval):
        return _plain([result.low, result.high])
    if is_dataclass(result):
        return {field.name: _plain(getattr(result, field.name)) for field in fields(result)}
    if isinstance(result, dict):
        return {key: _plain(item) for key, item in result.items()}
    if isinstance(result, list | tuple):
        return [_plain(item) for item in result]
    return finite(round(result, _DIGITS)) if isinstance(result, float) else result
