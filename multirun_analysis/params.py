"""Values of swept parameters: where a trial has them, when two are equal, and in which order they stand."""

from __future__ import annotations

from typing import Any

from multirun_analysis.records import identity
from multirun_analysis.sweep import OF_PROMPT, Trial


def value_of(trial: Trial, param: str) -> Any:
    """A parameter as configured or, if scores.json does not list it, as given on the command line."""
    return trial.params.get(param, trial.overrides.get(param))


def is_of_base(param: str) -> bool:
    """Whether a parameter also applies to the base without an adapter: the model, its prompt, and how it decodes."""
    return param.startswith(("decoding", "model")) or param in ("prompt", *OF_PROMPT)


def distinct(values: list[Any]) -> list[Any]:
    """The different values, in order."""
    return sorted({identity(value): value for value in values}.values(), key=order)


def order(value: Any) -> tuple[int, float, str]:
    """Sort key of a value: numbers come before everything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, identity(value))
