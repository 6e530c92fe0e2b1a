"""Successive halving from its candidates to its survivors, rung by rung."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from kimi_audio_ft.config.launcher import HalvingConfig
from kimi_audio_ft.engine.halving import Candidate, Fate, RungResult, decide, merged, rung_steps
from kimi_audio_ft.errors import UserError

log = logging.getLogger(__name__)


class Trainer(Protocol):
    """The part of a launcher that can stop a training at a step and go on from there."""

    def num_steps(self, job_overrides: Sequence[Sequence[str]]) -> list[int]:
        """Optimizer steps of every job's whole training; 0 when its config is not valid."""

    def train_until(self, job_overrides: Sequence[Sequence[str]], until: int, metric: str) -> list[RungResult]:
        """Train every job's adapter to a step and judge it there; in order. What is known is not made again."""


def run_rungs(
    candidates: Sequence[Candidate],
    trainer: Trainer,
    settings: HalvingConfig,
    on_rung: Callable[[Sequence[Candidate], int], None],
) -> list[Candidate]:
    """Train and judge candidates at every rung.

    Args:
        on_rung: is given all candidates and the rung's place after its decisions, which stand in the candidates.

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
            break  # nobody to be compared with
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
    """Bring candidates to their step of a rung; those with trainings of equal length share packs."""
    for until in sorted({candidate.steps[rung] for candidate in alive}):
        some = [candidate for candidate in alive if candidate.steps[rung] == until]
        log.info("Rung %d: %d adapters to step %d", rung + 1, len(some), until)
        results = trainer.train_until([candidate.overrides for candidate in some], until, metric)
        for candidate, result in zip(some, results, strict=True):
            candidate.signature = result.signature
            candidate.results.append(result)
