"""Options of ``hydra/sweeper=halving``; Hydra composes them as ``hydra.sweeper``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from kimi_audio_ft.schema import one_of, require

METRICS = ("cer", "loss")


@dataclass
class HalvingConfig:
    """Where trainings are compared, and how many go on."""

    _target_: str = "hydra_plugins.kimi_audio_ft_halving.sweeper.HalvingSweeper"
    params: dict[str, str] | None = None  # Values to sweep over, as in the basic sweeper; the grid's adapters compete.
    rungs: list[Any] = field(default_factory=lambda: [0.25, 0.5])  # Optimizer steps, or fractions of the training.
    reduction_factor: float = 2.0  # Of n adapters that reach a rung, the best n / reduction_factor go on.
    metric: str = "cer"  # What is compared: cer (greedy decoding of data.eval_manifest) or loss (on its answers).
    max_candidates: int | None = None  # Draw so many adapters from a larger grid; null takes all.
    seed: int = 1  # Of that draw.

    def __post_init__(self) -> None:
        one_of("hydra.sweeper.metric", self.metric, METRICS)
        rule = "must be greater than 1: of n adapters, the best n / reduction_factor go on"
        factor = self.reduction_factor
        require(math.isfinite(factor) and factor > 1, "hydra.sweeper.reduction_factor", factor, rule)
        require(bool(self.rungs), "hydra.sweeper.rungs", self.rungs, "needs at least one rung", "Write [0.5]")
        rule = "a rung is a number of optimizer steps, such as 100, or a fraction of the training, such as 0.25"
        for rung in self.rungs:
            number = isinstance(rung, int | float) and not isinstance(rung, bool)
            inside = number and (rung >= 1 if isinstance(rung, int) else 0 < rung < 1)
            require(inside, "hydra.sweeper.rungs", rung, rule)
        if self.max_candidates is not None:
            require(self.max_candidates >= 1, "hydra.sweeper.max_candidates", self.max_candidates, "must be 1 or more")
