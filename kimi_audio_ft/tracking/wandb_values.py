"""What W&B is given of a trial: flat keys, so that its parallel coordinates, scatter plots and grouping just work.

W&B plots numbers of a run's *summary* against its *config* and groups runs by config. So every figure of
``scores.json`` becomes one flat number of the summary, and every fact in words one key of the config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kimi_audio_ft.tracking.base import Utterance

COLUMNS = ("id", "repeat", "reference", "hypothesis", "cer")
# Shown where the rows have them: older ones do not.
MORE_COLUMNS = ("edits", "chars", "loss", "recording", "seconds")
FACTS = "record"
"""Group of the config that holds a finished trial's facts in words, such as ``record.signature``."""

_ERRORS, _NORMALISED = "errors", "normalised"
# W&B refuses longer names of runs and groups when they arrive, which for an offline run is weeks later.
_LONGEST_NAME = 128


def flat_keys(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config as dotted keys: ``{"lora": {"r": 8}}`` gives ``{"lora.r": 8}``; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_keys(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def summary_of(scores: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of ``scores.json``, under a flat name.

    The strict figures keep their names (``cer``, ``cer_ci_low``, ``substitutions``); the normalised ones get a suffix
    (``cer_normalised``); counts of error categories are ``errors/<category>``, which W&B puts into a section of their
    own, and other groups likewise ``<group>/<name>``. Texts and lists are left to the config and the trial's files.
    """
    flat: dict[str, float] = {}
    for key, value in scores.items():
        if key == _NORMALISED and isinstance(value, Mapping):
            flat |= {f"{name}_{_NORMALISED}": number for name, number in summary_of(value).items()}
        elif isinstance(value, Mapping):
            group = _ERRORS if key == "categories" else key
            flat |= {f"{group}/{name}": number for name, number in summary_of(value).items()}
        elif _is_number(value):
            flat[key] = value
    return flat


def facts_of(scores: Mapping[str, Any]) -> dict[str, Any]:
    """What ``scores.json`` says in words: the adapter's signature, identity of the data, commit, whether reused.

    W&B groups by config only, and grouping by ``record.signature`` shows the trials that share an adapter.
    """
    return {key: value for key, value in scores.items() if isinstance(value, str | bool)}


def short_name(name: str) -> str:
    """A run's name, or a group's, no longer than W&B takes: the end is what tells siblings apart."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[-(_LONGEST_NAME - 1) :]}"


def worst_first(utterances: Sequence[Utterance], limit: int) -> list[Utterance]:
    """At most ``limit`` utterances, those with the highest CER first and otherwise in the given order."""
    return sorted(utterances, key=lambda utterance: -utterance["cer"])[:limit]


def table_columns(utterances: Sequence[Utterance]) -> list[str]:
    """Columns of the table of utterances, without audio."""
    more = [name for name in MORE_COLUMNS if any(row.get(name) is not None for row in utterances)]
    return [*COLUMNS, *more, *([_ERRORS] if any(row.get("categories") for row in utterances) else [])]


def table_cell(utterance: Utterance, column: str) -> Any:
    """One cell of that table; categories in words: ``homophone 2, filler 1``."""
    if column != _ERRORS:
        return utterance.get(column)
    counts = utterance.get("categories") or {}
    return ", ".join(f"{name} {count:g}" for name, count in sorted(counts.items(), key=lambda one: -one[1]) if count)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
