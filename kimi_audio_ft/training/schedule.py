"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable


def rate_factor(schedule: str, num_steps: int, warmup_ratio: float) -> Callable[[int], float]:
    """Factor of the peak rate at each optimizer step: linear warm-up, then linear or cosine decay to 0, or constant."""
    warmup = math.ceil(num_steps * warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if schedule == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor
