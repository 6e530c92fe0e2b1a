"""Whether an adapter overfitted: a verdict over its training and validation losses."""

from __future__ import annotations

from statistics import fmean
from typing import Literal

from multirun_analysis.compare import Adapter
from multirun_analysis.records import Record
from multirun_analysis.statistics.results import Overfitting

# Two points are a line; with three, a minimum can lie between others.
MIN_POINTS = 3
# Differences in nats per answer token, as the report shows them: a ratio would condemn good adapters, whose losses are
# small. The validation loss has turned when it ends this much above its minimum: less is the noise of a plateau.
TURNED = 0.02
# Without a turn, a validation loss this much above the training loss is reported as a gap.
WIDE = 0.5


def overfitting_of(adapter: Adapter) -> Overfitting:
    """The verdict over one adapter."""
    validation, training = adapter.source.losses("val"), adapter.source.losses("train")
    if not validation:
        return Overfitting(adapter, "unknown")
    best, last = min(validation, key=lambda row: row["loss"]), validation[-1]
    trained = _training_loss(training, validation)
    gap = None if trained is None else last["loss"] - trained
    kind: Literal["none", "turned", "gap", "unknown"] = "none"
    if len(validation) < MIN_POINTS:
        kind = "unknown"
    elif last["loss"] - best["loss"] > TURNED:
        kind = "turned"
    elif gap is not None and gap > WIDE:
        kind = "gap"
    return Overfitting(adapter, kind, best["step"], best.get("epoch"), best["loss"], last["loss"], gap)


def _training_loss(training: list[Record], validation: list[Record]) -> float | None:
    """Mean training loss since the last but one validation; the last training loss when there is none since."""
    since = validation[-2]["step"] if len(validation) > 1 else 0
    recent = [row["loss"] for row in training if row["step"] > since] or [row["loss"] for row in training[-1:]]
    return fmean(recent) if recent else None
