"""Finalists: the best settings of a sweep are trained with further seeds, as further jobs of the same sweep.

A grid with one seed each says which adapters are good; some of them were lucky. Their settings are compared by several
seeds, at the cost of a few trainings instead of a grid of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from kimi_audio_ft.config.command_line import option_of
from kimi_audio_ft.config.launcher import FurtherSeeds
from kimi_audio_ft.config.train import SEEDS
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.sweep.halving import training_part
from kimi_audio_ft.text import short_names

log = logging.getLogger(__name__)

Jobs = Sequence[Sequence[str]]


def refuse_swept_seeds(jobs: Jobs, settings: FurtherSeeds) -> None:
    """Refuse a grid over seeds: all of its settings have several already.

    Raises:
        ConfigError: finalists are asked for, and jobs differ in a seed.
    """
    for option in SEEDS:
        given = {item for job in jobs for item in job if option_of(item) == option}
        if settings.finalists is not None and len(given) > 1:
            rule = f"adds seeds to the best settings, and {option} is swept, which gives them to all"
            remedy = f"Leave out the values of {option}, or write hydra.sweeper.finalists=null"
            raise ConfigError("hydra.sweeper.finalists", settings.finalists, rule, remedy)


def launch_finalists(
    launcher: Any, jobs: Jobs, returns: Sequence[JobReturn], settings: FurtherSeeds
) -> Sequence[JobReturn]:
    """Run the finalists of ``jobs`` with further seeds; returns of these, none where no finalist is asked for.

    Args:
        returns: of the jobs; a job's value is what settings are chosen by, the lowest first.
    """
    if settings.finalists is None:
        return []
    chosen = best_of_each(returns)[: settings.finalists]
    further = [job for place in chosen for job in _with_further_seeds(jobs[place], returns[place], settings)]
    if not further:
        return []
    names = short_names(jobs)
    named = "; ".join(names[place] for place in chosen)
    log.info("Finalists, which get %d seeds in all: %s", settings.finalist_seeds, named)
    launched: Sequence[JobReturn] = launcher.launch(further, initial_job_idx=len(jobs))
    return launched


def best_of_each(returns: Sequence[JobReturn]) -> list[int]:
    """The best job of each adapter, the best adapter first; jobs that failed are in none.

    An adapter's other decodings are no other finalists: they would be trained with the same seeds.
    """
    values = {
        place: float(value)
        for place, one in enumerate(returns)
        if one.status is JobStatus.COMPLETED and isinstance(value := one.return_value, int | float)
    }
    best: dict[Any, int] = {}
    for place in sorted((place for place in values if math.isfinite(values[place])), key=lambda place: values[place]):
        overrides = returns[place].overrides or []
        best.setdefault(getattr(returns[place], "adapter", None) or training_part(overrides), place)
    return list(best.values())


def _with_further_seeds(job: Sequence[str], returned: JobReturn, settings: FurtherSeeds) -> list[list[str]]:
    assert returned.cfg is not None
    first = int(returned.cfg.seed)
    others = [item for item in job if option_of(item) != "seed"]
    return [[*others, f"seed={seed}"] for seed in range(first + 1, first + settings.finalist_seeds)]
