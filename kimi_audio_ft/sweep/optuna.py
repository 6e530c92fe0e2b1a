"""Optuna's TPE for trials that are asked for a pack at a time."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.samplers import TPESampler


def tpe_for_packs(**options: Any) -> TPESampler:
    """``optuna.samplers.TPESampler`` with its constant liar, which hydra-optuna-sweeper's config has no field for.

    Without it, the trials of a batch do not know of each other and crowd around the same point: a pack of near copies.
    With it, each sees those asked for before it as bad ones, and looks elsewhere.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(constant_liar=True, **options)
