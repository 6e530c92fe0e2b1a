"""``python -m multirun_analysis SWEEP_DIR``: the leaderboard of a sweep and its report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kimi_audio_ft.errors import UserError
from multirun_analysis.report import load_sweep, write_comparison
from multirun_analysis.terminal import print_leaderboard


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 for an error that the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis",
        description="Compare the trials of a Hydra multirun: a leaderboard here, and report.html, trials.csv and "
        "trials.json in the sweep's folder.",
    )
    parser.add_argument("sweep_dir", type=Path, metavar="SWEEP_DIR", help="folder of the multirun (holds 0/, 1/, ...)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the three files there instead of SWEEP_DIR")
    options = parser.parse_args(arguments)
    try:
        comparison = load_sweep(options.sweep_dir)
        paths = write_comparison(comparison, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_leaderboard(comparison)
    Console().print(f"Report: {paths.html}", soft_wrap=True, markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
