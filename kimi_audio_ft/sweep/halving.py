"""Successive halving over adapters: candidates, rungs, and which of them continue. Pure: no files, no torch.

Jamieson & Talwalkar, arXiv 1502.07943: all candidates train to the first rung, the better part continues from there to
the next one, and so on; the remaining ones train to their end. Trainings are stopped and continued, never shortened: at
a rung, a learning rate is where its schedule for the whole training has it.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from kimi_audio_ft.config.command_line import option_of
from kimi_audio_ft.config.launcher import HalvingConfig
from kimi_audio_ft.config.train import RATES
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.text import short_names

log = logging.getLogger(__name__)

# Options that an adapter does not depend on: jobs that differ in nothing else are one candidate.
NOT_TRAINING = ("decoding", "logger", "scoring", "baseline")


@dataclass(frozen=True)
class RungResult:
    """One job's adapter at a rung.

    signature: of its training; empty when its config is not valid. error: why it failed.
    score: error rate (a fraction, ``rank_by``) or validation loss at ``step``; None after an error, and when it is no
        longer known.
    complete: its training is finished and in the store.
    """

    signature: str
    step: int
    score: float | None
    error: str | None
    complete: bool
    rank_by: str = "cer"


class Fate(StrEnum):
    """A rung's decision about a candidate."""

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

    jobs: overrides by index in the grid. steps: of its rungs. results, decisions: of the rungs that it has reached.
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
        """Whether it continues after its last rung."""
        return not self.decisions or self.decisions[-1].fate in (Fate.CONTINUED, Fate.PASSED)


def make_candidates(grid: Sequence[Sequence[str]], most: int | None, seed: int) -> list[Candidate]:
    """The grid's jobs by adapter, in the grid's order.

    Args:
        grid: overrides of every job.
        most: so many are drawn when there are more. A larger number keeps all that a smaller one has drawn, so that a
            sweep can be widened.
    """
    groups: dict[tuple[str, ...], dict[int, list[str]]] = {}
    for index, job in enumerate(grid):
        groups.setdefault(training_part(job), {})[index] = list(job)
    drawn = list(groups)
    if most is not None and most < len(drawn):
        order = list(range(len(drawn)))
        random.Random(seed).shuffle(order)
        drawn = [drawn[index] for index in sorted(order[:most])]
    return [Candidate(name, groups[part]) for name, part in zip(short_names(drawn), drawn, strict=True)]


def training_part(job: Sequence[str]) -> tuple[str, ...]:
    """The overrides that a job's adapter depends on."""
    return tuple(item for item in job if option_of(item).split(".")[0] not in NOT_TRAINING)


def merged(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates, with those made one that have proved to be the same adapter (``lora.lora_alpha=16`` and ``null``)."""
    kept: dict[str, Candidate] = {}
    for index, candidate in enumerate(candidates):
        first = kept.setdefault(candidate.signature or f"#{index}", candidate)
        if first is not candidate:
            first.jobs = dict(sorted({**first.jobs, **candidate.jobs}.items()))
    return list(kept.values())


def rung_steps(rungs: Sequence[int | float], num_steps: int, name: str) -> list[int]:
    """The rungs as optimizer steps of a candidate's training; ConfigError unless they rise and lie inside it."""
    steps = [rung if isinstance(rung, int) else max(1, round(rung * num_steps)) for rung in rungs]
    if steps != sorted(set(steps)):
        rule = f"must rise, and come to steps {steps} of the {num_steps} that {name} trains"
        raise ConfigError("hydra.sweeper.rungs", list(rungs), rule, "Take fewer rungs, or train longer")
    if steps[-1] >= num_steps:
        rule = f"must end before the training, and {name} trains for {num_steps} steps only"
        raise ConfigError("hydra.sweeper.rungs", list(rungs), rule, "Use fractions such as 0.25, or smaller numbers")
    return steps


def decide(results: Sequence[RungResult], reduction_factor: float, metric: str) -> list[Decision]:
    """The candidates that continue after a rung: of n that have reached it, the best n / reduction_factor, rounded up.

    - Ties at the border all continue: nothing is stopped that is as good as something that continues.
    - A failed one is out and counts among the worst, so no other is stopped on its account.
    - A finished one that can be compared is compared, so that the outcome does not depend on what the store has. One
      that cannot passes without counting: another rung's score would compare unequal budgets.
    """
    most = math.ceil(len(results) / reduction_factor)
    metric = metric_of(results, metric)
    known = [result.score for result in results if result.error is None and result.score is not None]
    scores = sorted(filter(math.isfinite, known))
    border = scores[min(most, len(scores)) - 1] if scores else math.inf
    return [_decision(result, scores, border, metric) for result in results]


def _decision(result: RungResult, scores: Sequence[float], border: float, metric: str) -> Decision:
    """About one candidate, given the scores of all that are compared, sorted, and the last one that continues."""
    if result.error is not None:
        return Decision(Fate.FAILED, None, result.error)
    if result.score is None:
        assert result.complete, f"{result.signature} has neither a score nor an error at step {result.step}"
        costs = (
            f"was in the store, finished, without a {metric} at step {result.step}; costs nothing and is not counted"
        )
        return Decision(Fate.PASSED, None, costs)
    if not math.isfinite(result.score):
        return Decision(Fate.FAILED, None, f"its {metric} at step {result.step} is {result.score}")
    rank = 1 + sum(score < result.score for score in scores)
    reason = f"rank {rank} of {len(scores)} at step {result.step}: {show(result.score, metric)}"
    if result.score <= border:
        return Decision(Fate.CONTINUED, rank, reason)
    continued = sum(score <= border for score in scores)
    worst = f"the best {continued} continue, down to {show(border, metric)}"
    return Decision(Fate.STOPPED, rank, f"{reason}; {worst}")


def metric_of(results: Sequence[RungResult], metric: str) -> str:
    """The scores' own measure: "loss", or the error rate that ranks, which all jobs of a sweep share."""
    return next((one.rank_by for one in results if one.signature), metric) if metric == "cer" else metric


def show(score: float | None, metric: str) -> str:
    if score is None:
        return "–"
    return f"loss {score:.4f}" if metric == "loss" else f"{RATES[metric]} {100 * score:.2f} %"


# The rungs, one after another.


class Trainer(Protocol):
    """The part of a launcher that can stop a training at a step and continue it later."""

    def num_steps(self, job_overrides: Sequence[Sequence[str]]) -> list[int]:
        """Optimizer steps of every job's whole training; 0 when its config is not valid."""

    def train_until(self, job_overrides: Sequence[Sequence[str]], until: int, metric: str) -> list[RungResult]:
        """Train every job's adapter to a step and evaluate it there; in order. Known results are looked up."""


def run_rungs(
    candidates: Sequence[Candidate],
    trainer: Trainer,
    settings: HalvingConfig,
    on_rung: Callable[[Sequence[Candidate], int], None],
) -> list[Candidate]:
    """Train and compare candidates at every rung.

    Args:
        on_rung: is given all candidates, with the rung's decisions, and the rung's index.

    Returns:
        All candidates, each with its results and decisions; those that ``is_alive`` are to be trained to their end.

    Raises:
        ConfigError: the rungs do not lie inside a candidate's training; nothing was trained.
        UserError: every candidate failed.
    """
    everyone = list(candidates)
    numbers = trainer.num_steps([candidate.overrides for candidate in everyone])
    for candidate, number in zip(everyone, numbers, strict=True):
        candidate.num_steps = number
        # Without a valid config, the first rung says what is wrong with it.
        candidate.steps = rung_steps(settings.rungs, number, candidate.name) if number else [1]
    for rung in range(len(settings.rungs)):
        alive = [candidate for candidate in everyone if candidate.is_alive]
        unfinished = [one for one in alive if not one.decisions or one.decisions[-1].fate is not Fate.PASSED]
        if len(unfinished) < 2:
            break  # nothing to compare it with
        _train(alive, rung, trainer, settings.metric)
        if rung == 0:
            alive = everyone = merged(everyone)
        decisions = decide([one.results[rung] for one in alive], settings.reduction_factor, settings.metric)
        for candidate, decision in zip(alive, decisions, strict=True):
            candidate.decisions.append(decision)
        on_rung(everyone, rung)
        if not any(candidate.is_alive for candidate in everyone):
            reasons = "\n".join(f"  {one.name}: {one.decisions[-1].reason.splitlines()[0]}" for one in alive)
            raise UserError(f"all {len(alive)} adapters failed before step {alive[0].steps[rung]}\n{reasons}")
    return everyone


def _train(alive: Sequence[Candidate], rung: int, trainer: Trainer, metric: str) -> None:
    """Train candidates to their step of a rung; those with trainings of equal length share packs."""
    for until in sorted({candidate.steps[rung] for candidate in alive}):
        some = [candidate for candidate in alive if candidate.steps[rung] == until]
        log.info("Rung %d: %d adapters to step %d", rung + 1, len(some), until)
        results = trainer.train_until([candidate.overrides for candidate in some], until, metric)
        for candidate, result in zip(some, results, strict=True):
            candidate.signature = result.signature
            candidate.results.append(result)
