"""``python -m multirun_analysis.labels FOLDER...``: the references that are most likely wrong, as a CSV and a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.text import printable
from multirun_analysis.labels.evidence import FIRST_COMMAND, gather
from multirun_analysis.messages import ENGLISH, LANGUAGES, messages_in

FILE, PAGE = "suspects.csv", "labels.html"
MOST, SHOWN = 500, 60


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
    parser.add_argument(
        "--shown", type=int, default=SHOWN, metavar="N", help="references on the page beside it (%(default)s)"
    )
    parser.add_argument(
        "--language", choices=list(LANGUAGES), default=ENGLISH.language, help="language of the page: en (default) or zh"
    )
    options = parser.parse_args(arguments)
    from multirun_analysis.labels.page import write_page
    from multirun_analysis.labels.signals import rank_suspects
    from multirun_analysis.labels.suspects import print_summary, write_suspects

    try:
        if options.most < 0:
            raise ConfigError("--most", options.most, "must be 0 (all) or more")
        if options.shown < 1:
            raise ConfigError("--shown", options.shown, "must be 1 or more")
        ranking = rank_suspects(gather(options.folders, options.manifest))
        path = options.out or options.folders[0] / FILE
        written = write_suspects(ranking, path, options.most)
        page = path.with_name(PAGE) if path.name == FILE else path.with_suffix(".html")
        write_page(ranking, page, options.shown, messages_in(options.language))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_summary(ranking, path, written)
    print(f"listen and decide: {printable(str(page))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
