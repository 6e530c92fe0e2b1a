"""From the folder of a Hydra sweep to a leaderboard, two tables and one HTML report. Reads files only; no torch."""

from multirun_analysis.report.page import ReportPaths, load_sweep, write_report
from multirun_analysis.terminal import print_leaderboard

__all__ = ["ReportPaths", "load_sweep", "print_leaderboard", "write_report"]
