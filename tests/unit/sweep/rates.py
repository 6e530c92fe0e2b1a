"""Successive halving over a launcher that trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kimi_audio_ft.config.launcher import HalvingConfig
from kimi_audio_ft.sweep.halving import Candidate, RungResult, make_candidates, run_rungs

SETTINGS = HalvingConfig()
NUM_STEPS = 40


@dataclass
class Rates:
    """A launcher whose adapters are as good as their rate is high; rate 0 fails, rate -1 has no valid config.

    asked: (step, jobs) of every call. steps: length of a training, by rate. finished: rates that the store has.
    """

    asked: list[tuple[int, list[str]]] = field(default_factory=list)
    steps: dict[float, int] = field(default_factory=dict)
    finished: set[float] = field(default_factory=set)

    def num_steps(self, job_overrides: Sequence[Sequence[str]]) -> list[int]:
        return [0 if rate == -1 else self.steps.get(rate, NUM_STEPS) for rate in map(self._rate, job_overrides)]

    def train_until(self, job_overrides: Sequence[Sequence[str]], until: int, metric: str) -> list[RungResult]:
        assert metric == "cer"
        self.asked.append((until, [" ".join(job) for job in job_overrides]))
        return [self._result(self._rate(job), until) for job in job_overrides]

    def _result(self, rate: float, until: int) -> RungResult:
        if rate == -1:
            return RungResult("", until, None, "optim.lr=-1: must be positive", False)
        if rate == 0:
            return RungResult("a0.0", until, None, "loss is nan\nat step 3", False)
        if rate in self.finished:
            return RungResult(f"a{rate}", until, None, None, True)
        return RungResult(f"a{rate}", until, 1 / (rate * until), None, False)

    @staticmethod
    def _rate(job: Sequence[str]) -> float:
        [value] = [item.partition("=")[2] for item in job if item.startswith("optim.lr=")]
        return float(value)


def grid(*rates: str) -> list[list[str]]:
    return [[f"optim.lr={rate}", f"decoding.text_temperature={t}"] for rate in rates for t in (0.0, 0.5)]


def run_grid(
    trainer: Rates, *rates: str, on_rung: Callable[..., None] = lambda everyone, rung: None
) -> dict[str, Candidate]:
    everyone = run_rungs(make_candidates(grid(*rates), None, 1), trainer, SETTINGS, on_rung)
    return {candidate.name.removeprefix("lr="): candidate for candidate in everyone}


def fates_of(candidate: Candidate) -> list[str]:
    return [decision.fate.value for decision in candidate.decisions]
