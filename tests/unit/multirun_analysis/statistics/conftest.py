"""Trials and tallies without files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from multirun_analysis.statistics.tally import Tally
from multirun_analysis.sweep import Scores, Status, Trial

NONE = dict.fromkeys(Scores.__dataclass_fields__)


@pytest.fixture
def trial() -> Callable[..., Trial]:
    """Makes a finished trial: ``trial("3", cer=0.1, trainable_parameters=5, **{"lora.r": 8})``."""

    def make(name: str = "0", cer: float = 0.1, record: dict[str, Any] | None = None, **params: Any) -> Trial:
        strict = Scores(**NONE | {"cer": cer})
        return Trial(name, Path(name), Status.COMPLETED, params, record=record or {}, strict=strict)

    return make


@pytest.fixture
def tally(trial: Callable[..., Trial]) -> Callable[..., Tally]:
    """Makes a tally of edits ``[trials, utterances]``."""

    def make(edits: ArrayLike, chars: ArrayLike, recordings: Sequence[Any], repeats: int = 1) -> Tally:
        counts = np.asarray(edits)
        trials = [trial(str(number)) for number in range(len(counts))]
        each = np.full(len(counts), repeats)
        return Tally(trials, counts, each, np.asarray(chars), [str(name) for name in recordings])

    return make
