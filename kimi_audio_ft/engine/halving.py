"""Successive halving over adapters: candidates, rungs, and who goes on from a rung. Pure: no files, no torch.

Jamieson & Talwalkar, arXiv 1502.07943: all candidates train to the first rung, the better part goes on from there to
the next one, and so on; what is left trains to its end. Trainings are stopped and continued, never shortened: at a
rung, a learning rate is where its schedule for the whole training has it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.text import short_names

# Options that an adapter does not depend on: jobs that differ in nothing else are one candidate.
NOT_TRAINING = ("decoding", "logger", "scoring", "baseline")


@dataclass(frozen=True)
class RungResult:
    """What became of one job's adapter at a rung.

    signature: of its training; empty when its config is not valid.
    num_steps: of the whole training.
    score: CER (a fraction) or validation loss at ``step``; None after an error, and when it is not known any more.
    error: why it got no further.
    complete: its training is finished and in the store.
    """

    signature: str
    step: int
    num_steps: int
    score: float | None
    error: str | None
    complete: bool


class Fate(StrEnum):
    """What a rung decides about a candidate."""

    CONTINUED = "continued"
    STOPPED = "stopped"
    FAILED = "failed"
    PASSED = "passed"  # Its training was finished before, so it could not be compared here and costs nothing.


@dataclass(frozen=True)
class Decision:
    """A fate and its reason. rank: 1 is best, equal scores share one; None when there was nothing to compare."""

    fate: Fate
    rank: int | None
    reason: str


@dataclass
class Candidate:
    """One adapter and all jobs of the grid that decode with it.

    jobs: overrides by place in the grid. steps: of its rungs. results, decisions: of the rungs that it has reached.
    """

    name: str
    jobs: dict[int, list[str]]
    signature: str = ""
    num_steps: int = 0
    steps: list[int] = field(default_factory=list)
    results: list[RungResult] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def overrides(self) -> list[str]:
        """Of its first job, which trains it."""
        return next(iter(self.jobs.values()))

    @property
    def is_alive(self) -> bool:
        """Whether it goes on from its last rung."""
        return not self.decisions or self.decisions[-1].fate in (Fate.CONTINUED, Fate.PASSED)


def make_candidates(grid: Sequence[Sequence[str]], most: int | None, seed: int) -> list[Candidate]:
    """The grid's jobs by adapter, in the grid's order.

    Args:
        grid: overrides of every job.
        most: so many are drawn when there are more. A larger number keeps all that a smaller one has drawn, so that a
            sweep can be widened.
    """
    groups: dict[tuple[str, ...], dict[int, list[str]]] = {}
    for place, job in enumerate(grid):
        groups.setdefault(_training_part(job), {})[place] = list(job)
    order = list(range(len(groups)))
    if most is not None and most < len(order):
        random.Random(seed).shuffle(order)
        order = sorted(order[:most])
    parts = list(groups)
    drawn = [parts[place] for place in order]
    return [Candidate(name, groups[part]) for name, part in zip(short_names(drawn), drawn, strict=True)]


def _training_part(job: Sequence[str]) -> tuple[str, ...]:
    return tuple(item for item in job if item.partition("=")[0].lstrip("+~").split(".")[0] not in NOT_TRAINING)


def merged(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that turned out to be the same adapter, such as ``lora.lora_alpha=16`` and ``null``, are one."""
    kept: dict[str, Candidate] = {}
    for place, candidate in enumerate(candidates):
        first = kept.setdefault(candidate.signature or f"#{place}", candidate)
        if first is not candidate:
            first.jobs = dict(sorted({**first.jobs, **candidate.jobs}.items()))
    return list(kept.values())


def rung_steps(rungs: Sequence[int | float], num_steps: int, name: str) -> list[int]:
    """The rungs as optimizer steps of one candidate's training.

    Raises:
        ConfigError: they do not rise, or do not lie inside the training.
    """
    steps = [rung if isinstance(rung, int) else max(1, round(rung * num_steps)) for rung in rungs]
    if steps != sorted(set(steps)):
        rule = f"must rise, and come to steps {steps} of the {num_steps} that {name} trains"
        raise ConfigError("hydra.sweeper.rungs", list(rungs), rule, "Take fewer rungs, or train longer")
    if steps[-1] >= num_steps:
        rule = f"must end before the training, and {name} trains for {num_steps} steps only"
        raise ConfigError("hydra.sweeper.rungs", list(rungs), rule, "Use fractions such as 0.25, or smaller numbers")
    return steps


def decide(results: Sequence[RungResult], reduction_factor: float, metric: str) -> list[Decision]:
    """Who goes on from a rung: of n that have reached it, the best n / reduction_factor, rounded up.

    - A tie at the border keeps both: nothing is stopped that is as good as something that goes on.
    - One that failed is out; it counts as one of the worst, so it takes nobody with it.
    - A finished one that can be compared is compared, so that the outcome does not depend on what the store has. One
      that cannot passes without taking a place: another rung's score would compare unequal budgets.
    """
    places = math.ceil(len(results) / reduction_factor)
    scores = sorted(result.score for result in results if _compared(result) and result.score is not None)
    border = scores[min(places, len(scores)) - 1] if scores else math.inf
    decisions = []
    for result in results:
        if not _compared(result):
            decisions.append(_without_score(result, metric))
            continue
        assert result.score is not None
        rank = 1 + sum(score < result.score for score in scores)
        if result.score <= border:
            reason = f"rank {rank} of {len(scores)} at step {result.step}: {show(result.score, metric)}"
            decisions.append(Decision(Fate.CONTINUED, rank, reason))
        else:
            going_on = sum(score <= border for score in scores)
            worst = f"the best {going_on} go on, down to {show(border, metric)}"
            reason = f"rank {rank} of {len(scores)} at step {result.step}: {show(result.score, metric)}; {worst}"
            decisions.append(Decision(Fate.STOPPED, rank, reason))
    return decisions


def _compared(result: RungResult) -> bool:
    return result.error is None and result.score is not None and math.isfinite(result.score)


def _without_score(result: RungResult, metric: str) -> Decision:
    if result.error is not None:
        return Decision(Fate.FAILED, None, result.error)
    if result.score is not None:
        return Decision(Fate.FAILED, None, f"its {metric} at step {result.step} is {result.score}")
    assert result.complete, f"{result.signature} has neither a score nor an error at step {result.step}"
    reason = f"was in the store, finished, without a {metric} at step {result.step}; costs nothing and takes no place"
    return Decision(Fate.PASSED, None, reason)


def show(score: float | None, metric: str) -> str:
    """A score as tables have it."""
    if score is None:
        return "–"
    return f"CER {100 * score:.2f} %" if metric == "cer" else f"loss {score:.4f}"
