"""A sweep of nine adapters at four temperatures, and a clock to set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest

from kimi_audio_ft.sweep.events import event_from_json
from kimi_audio_ft.sweep.view.state import JobLine, SweepState
from kimi_audio_ft.text import short_names


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs() -> list[JobLine]:
    """36 trials with the units a0 to a8, four trials each; those of a0 are in the store."""
    grid = product((8, 16, 32), ("2e-5", "5e-5", "1e-4"), (0.0, 0.1, 0.2, 0.3))
    overrides = [
        [f"lora.r={r}", f"optim.lr={lr}", f"decoding.text_temperature={t}", "logger=none"] for r, lr, t in grid
    ]
    names = short_names(overrides)
    return [JobLine(n, name, f"a{n // 4}", reused=n < 4) for n, name in enumerate(names)]


@pytest.fixture
def state(jobs: list[JobLine], clock: Clock) -> SweepState:
    return SweepState(jobs, clock)


@pytest.fixture
def tell(state: SweepState) -> Callable[..., None]:
    """Applies an event: ``tell("step", "a1", step=1, ...)``."""

    def apply(name: str, unit: str | None, **facts: object) -> None:
        state.apply(event_from_json({"event": name, "unit": unit, **facts}))

    return apply
