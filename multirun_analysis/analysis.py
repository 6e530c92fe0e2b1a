"""A sweep that was read and all that the report says about it: one value, computed once and handed on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from multirun_analysis.compare import Comparison, compare
from multirun_analysis.learning import LearningStudy, learning_study
from multirun_analysis.statistics.recommendation import MARGIN
from multirun_analysis.statistics.results import Statistics
from multirun_analysis.statistics.slices import Slices, slices_of
from multirun_analysis.statistics.summary import statistics_of
from multirun_analysis.sweep import Sweep, collect
from multirun_analysis.unseen import Unseen, read_unseen


@dataclass(frozen=True, eq=False)
class Analysis(Comparison):
    """The comparison of a sweep's trials, its statistics, and its learning curves where set sizes are swept.

    unseen: what its choice was confirmed by.
    """

    statistics: Statistics
    learning: LearningStudy | None
    unseen: Unseen

    @cached_property
    def slices(self) -> Slices:
        """The adapter to take against the base, by the corpus's columns and by duration; none without utterances."""
        found, gain, chosen = self.statistics.transcripts, self.statistics.gain, self.statistics.choice
        if found is None or chosen not in found.tally.trials:
            return Slices()
        base = [gain.base] if gain and gain.base in found.tally.trials else []
        return slices_of(found.tally.only([chosen, *base]), found.ids, chosen.utterances)


def analyse(sweep: Sweep, margin: float = MARGIN) -> Analysis:
    """Compare the trials of ``sweep`` and compute everything else from their utterances and curves.

    Raises:
        UserError: as ``compare``.
        DataError: an utterances.jsonl or curves.jsonl cannot be read.
    """
    compared = compare(sweep)
    statistics = statistics_of(compared, margin)
    unseen = read_unseen(sweep.folder, sweep.finished, statistics.choice)
    return Analysis(sweep, compared.swept, compared.rows, statistics, learning_study(compared), unseen)


def with_unseen(analysis: Analysis) -> Analysis:
    """The same with what was decoded on unseen data meanwhile."""
    sweep = analysis.sweep
    return replace(analysis, unseen=read_unseen(sweep.folder, sweep.finished, analysis.statistics.choice))


def load_sweep(sweep_dir: Path, margin: float = MARGIN, rank_by: str | None = None) -> Analysis:
    """Read and analyse the trials in ``sweep_dir``; margin: as in ``statistics_of``; rank_by: as in ``collect``.

    Raises:
        UserError: no such folder, no trial or no finished trial in it, a record that cannot be read, or trials that
            were not scored alike: on different references, by different versions or under different options.
    """
    return analyse(collect(Path(sweep_dir), rank_by), margin)
