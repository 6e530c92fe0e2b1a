"""``python -m multirun_analysis SWEEP_DIR``: the leaderboard of a sweep and its report."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from kimi_audio_ft.config.train import RATES
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import share_with_group
from kimi_audio_ft.text import printable
from multirun_analysis.analysis import Analysis, load_sweep
from multirun_analysis.messages import ENGLISH, LANGUAGES, messages_in
from multirun_analysis.report.page import ReportPaths, write_comparison
from multirun_analysis.statistics.recommendation import MARGIN
from multirun_analysis.terminal import print_leaderboard
from multirun_analysis.watch import SECONDS, watch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 for a user's error."""
    options = _parser().parse_args(arguments)
    share_with_group()
    try:
        load = partial(load_sweep, margin=options.margin / 100, rank_by=options.rank_by)
        if options.watch is not None:
            return _watch(options, load)
        if options.confirm is not None and (code := _confirm(options)):
            return code
        analysis = load(options.sweep_dir)
        paths = write_comparison(analysis, options.out, options.language)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_leaderboard(analysis)
    _tell(f"Report: {paths.html}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis",
        description="Compare the trials of a Hydra multirun: a leaderboard here, and report.html, trials.csv and "
        "trials.json in the sweep's folder.",
    )
    parser.add_argument("sweep_dir", type=Path, metavar="SWEEP_DIR", help="folder of the multirun (holds 0/, 1/, ...)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the three files there instead of SWEEP_DIR")
    parser.add_argument(
        "--language",
        choices=list(LANGUAGES),
        default=ENGLISH.language,
        help="language of the report's own text: English (default) or Chinese",
    )
    parser.add_argument(
        "--margin",
        type=_percent,
        default=100 * MARGIN,
        metavar="PERCENT",
        help="a cheaper trial is recommended when it is shown to be at most so much worse than the best, relative to "
        f"its error rate (default {100 * MARGIN:g}); 0 always takes the lowest one",
    )
    parser.add_argument(
        "--rank-by",
        choices=list(RATES),
        help="error rate that ranks, tests and recommends, whatever scoring.rank_by the sweep was run with (default: "
        "that one)",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--confirm",
        nargs="?",
        const="",
        metavar="FILE.tokens.jsonl",
        help="first decode the recommended trial and the base on data that no trial has seen: the sweep's "
        "data.test_manifest, or this one; and the best trials on its data.guard_manifests. What is decoded is kept",
    )
    either.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=SECONDS,
        metavar="SECONDS",
        help="write the report again while the sweep runs, looking for changes every SECONDS (default "
        f"{SECONDS:g}); ends with the sweep, also with one that was killed, or by Ctrl-C",
    )
    return parser


def _percent(text: str) -> float:
    percent = float(text)
    if not 0 <= percent < 100:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and less than 100")
    return percent


def _seconds(text: str) -> float:
    seconds = float(text)  # argparse tells of a ValueError
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} must be between 1 and 86400 seconds")
    return seconds


def _confirm(options: argparse.Namespace) -> int:
    """Decode in a process of its own, as the analysis itself reads files only; returns its exit code."""
    command = [sys.executable, "-m", "kimi_audio_ft.sweep.confirm", str(options.sweep_dir)]
    command += ["--margin", str(options.margin / 100), *(["--manifest", options.confirm] if options.confirm else [])]
    command += ["--rank-by", options.rank_by] if options.rank_by else []
    with subprocess.Popen(command) as process:
        while True:
            with suppress(KeyboardInterrupt):  # it reaches the process too, which keeps what is decoded
                return process.wait()


def _watch(options: argparse.Namespace, load: Callable[[Path], Analysis]) -> int:
    html = ReportPaths.in_folder(options.out or options.sweep_dir).html
    _tell(f"Watching {options.sweep_dir} every {options.watch:g} s; Ctrl-C ends it. Report: {html}")
    try:
        watch(options.sweep_dir, options.out, messages_in(options.language), options.watch, load=load)
    except KeyboardInterrupt:
        _tell("Watching ended; the report shows the sweep as it was.")
        return 0
    print_leaderboard(load(options.sweep_dir))
    _tell(f"The sweep is done. Report: {html}")
    return 0


def _tell(text: str) -> None:
    Console().print(printable(text), soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
