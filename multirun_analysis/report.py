"""The three files of a sweep: report.html, which needs neither network nor server, trials.csv and trials.json."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from multirun_analysis.collect import collect
from multirun_analysis.compare import Comparison, compare
from multirun_analysis.messages import ENGLISH, messages_in
from multirun_analysis.page import render
from multirun_analysis.records import write_whole
from multirun_analysis.tables import trials_csv, trials_json


@dataclass(frozen=True)
class ReportPaths:
    """The three files of a report."""

    html: Path
    csv: Path
    json: Path

    @classmethod
    def in_folder(cls, folder: Path) -> ReportPaths:
        """Where they lie."""
        folder = folder.resolve()
        return cls(folder / "report.html", folder / "trials.csv", folder / "trials.json")


def load_sweep(sweep_dir: Path) -> Comparison:
    """Read and compare the trials in ``sweep_dir``.

    Raises:
        UserError: no such folder, no trial or no finished trial in it, a record that cannot be read, or trials that
            were not scored alike: on different references, by different versions or under different options.
    """
    return compare(collect(Path(sweep_dir)))


def write_report(sweep_dir: Path, out: Path | None = None, language: str = ENGLISH.language) -> ReportPaths:
    """Compare the trials in ``sweep_dir`` and write report.html, trials.csv and trials.json.

    Args:
        sweep_dir: folder of a Hydra multirun (or of a single run).
        out: folder for the three files, made when missing; ``sweep_dir`` by default.
        language: of the page's own text: "en" or "zh". The tables' keys are the same in both.

    Raises:
        UserError: as ``load_sweep``, the files cannot be written, or the language is another one.
    """
    return write_comparison(load_sweep(sweep_dir), out, language)


def write_comparison(comparison: Comparison, out: Path | None = None, language: str = ENGLISH.language) -> ReportPaths:
    """As ``write_report``, for a sweep that is already loaded."""
    say = messages_in(language)
    paths = ReportPaths.in_folder(Path(out or comparison.sweep.folder))
    created = datetime.now().astimezone()
    write_whole(paths.csv, trials_csv(comparison))
    write_whole(paths.json, trials_json(comparison, created))
    write_whole(paths.html, render(comparison, created, say))
    return paths
