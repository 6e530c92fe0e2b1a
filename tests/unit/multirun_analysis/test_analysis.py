"""One value holds the comparison, the statistics and the learning study of a sweep."""

from __future__ import annotations

import shutil
from pathlib import Path

from multirun_analysis.analysis import Analysis, analyse
from multirun_analysis.compare import compare
from multirun_analysis.sweep import collect


def test_an_analysis_is_the_comparison_with_its_statistics(synthetic: Analysis, synthetic_folder: Path) -> None:
    compared = compare(collect(synthetic_folder))
    assert synthetic.swept == compared.swept
    assert [row.trial.name for row in synthetic.rows] == [row.trial.name for row in compared.rows]
    assert synthetic.statistics.best_group[0] is synthetic.best.trial
    assert synthetic.learning is None, "sizes of the training set are not swept"


def test_statistics_need_no_files_once_the_sweep_was_read(sweep) -> None:
    for number in (0, 1):
        sweep.trial(number, rank=8 + number)
    analysis = analyse(collect(sweep.folder))
    shutil.rmtree(sweep.folder)
    assert len(analysis.statistics.pairs) == 1
