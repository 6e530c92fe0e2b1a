"""TODO."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from multirun_analysis.sweep import Trial

if TYPE_CHECKING:
    pass


def value_of(trial: Trial, param: str) -> Any:
    """A parameter as configured or, for what scores.json does not list, as given on the command line."""
    return trial.params.get(param, trial.overrides.get(param))


def is_of_base(param: str) -> bool:
    """Whether a parameter also says something about the base alone: how it is asked, and how it decodes."""
    return param.startswith("decoding") or param in ("prompt", "data.prompt")


def identity(value: Any) -> str:
    """Equal for equal values of any type; 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def distinct(values: list[Any]) -> list[Any]:
    """The different values, numbers before everything else, each in order."""
    return sorted({identity(value): value for value in values}.values(), key=_order)


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, identity(value))
