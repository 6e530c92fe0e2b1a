"""``python -m multirun_analysis.labels FOLDER...``: writes the references that are most likely wrong as a CSV."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kimi_audio_ft.errors import ConfigError, UserError
from multirun_analysis.labels.evidence import FIRST_COMMAND, gather

FILE = "suspects.csv"
MOST = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 for a user's error."""
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis.labels",
        description="List the references of a data set that are most likely wrong, from the transcripts and "
        f"losses of several adapters. {FIRST_COMMAND}.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="evaluations, or multiruns of them")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="leave out what has changed in it")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the CSV ({FILE} in the first FOLDER)")
    parser.add_argument("--most", type=int, default=MOST, metavar="N", help="rows of the CSV, 0 for all (%(default)s)")
    options = parser.parse_args(arguments)
    from multirun_analysis.labels.signals import rank_suspects
    from multirun_analysis.labels.suspects import print_summary, write_suspects

    try:
        if options.most < 0:
            raise ConfigError("--most", options.most, "must be 0 (all) or more")
        ranking = rank_suspects(gather(options.folders, options.manifest))
        path = options.out or options.folders[0] / FILE
        written = write_suspects(ranking, path, options.most)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_summary(ranking, path, written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
