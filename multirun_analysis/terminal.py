"""The leaderboard in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multirun_analysis.compare import Comparison, Row
from multirun_analysis.messages import ENGLISH
from multirun_analysis.params import is_of_base, value_of
from multirun_analysis.statistics import Interval
from multirun_analysis.words import (
    BASE_NAME,
    change,
    conclusions,
    effort,
    headline,
    learning_in_words,
    short_key,
    shown,
    training_time,
)

MOST_ROWS = 40
NARROW = 47  # columns of text that the scores need; below this and the parameters' share, only the main ones are shown
PARAM_WIDTH = 9
INTERVAL_WIDTH = 7
HEADINGS = {"optim.lr": "lr", "decoding.text_temperature": "temp", "decoding.text_top_k": "top-k"}


def print_leaderboard(
    comparison: Comparison, console: Console | None = None, most_rows: int = MOST_ROWS, failures: bool = True
) -> None:
    """Print the ranked trials and the zero-shot base, the result in one sentence, and what failed.

    Args:
        comparison: from ``load_sweep``.
        console: where to print; standard output by default.
        most_rows: further rows are counted, not printed; they are all in the report.
        failures: also print a line for every failed trial.
    """
    console = console or Console()
    title = f"Sweep {comparison.sweep.folder.resolve().name}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    has_intervals = bool(comparison.statistics.intervals)
    is_wide = console.width >= NARROW + PARAM_WIDTH * len(comparison.swept) + INTERVAL_WIDTH * has_intervals
    table.add_column("#", justify="right", no_wrap=True)
    for param in comparison.swept:
        table.add_column(HEADINGS.get(param, short_key(param)), justify="right", no_wrap=True)
    if not comparison.swept:
        table.add_column("trial", overflow="fold")
    scores = ("CER %", *(("±",) if has_intervals else ()), "norm. %", "vs base")
    for heading in (*scores, *(("WER %", "exact %", "train") if is_wide else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows[:most_rows]:
        table.add_row(*(Text(cell) for cell in _cells(row, comparison, is_wide)), style=_style(row, comparison))
    console.print(table)
    if len(comparison.rows) > most_rows:
        console.print(f"... and {len(comparison.rows) - most_rows} more rows, all in the report")
    console.print(Text(headline(comparison)), style="bold")
    for conclusion in [*conclusions(comparison, ENGLISH), *learning_in_words(comparison.learning, ENGLISH)]:
        console.print(Text(conclusion))
    console.print(Text(effort(comparison)))
    halving = comparison.sweep.halving
    if halving is not None:
        console.print(Text(halving.in_words()))
        for one in halving.candidates:
            if one.decision == "failed":
                console.print(Text(f"FAILED at step {one.step} ({one.name}): {one.reason}"), style="red")
    for trial in comparison.sweep.failed if failures else []:
        error = f"{trial.record.get('error_type')}: {trial.record.get('message')}"
        console.print(Text(f"FAILED {trial.name} ({trial.label}): {error}"), style="red")


def _style(row: Row, comparison: Comparison) -> str | None:
    if row is comparison.best:
        return "bold green"
    return "green" if row.trial is comparison.statistics.recommended else "dim" if row.trial.is_base else None


def _cells(row: Row, comparison: Comparison, is_wide: bool) -> list[str]:
    trial, statistics = row.trial, comparison.statistics
    assert trial.strict is not None
    if not comparison.swept:
        named = [BASE_NAME if trial.is_base else trial.label]
    else:
        own = [not trial.is_base or is_of_base(param) for param in comparison.swept]
        pairs = zip(comparison.swept, own, strict=True)
        named = [shown(param, value_of(trial, param)) if is_own else "–" for param, is_own in pairs]
    more = [_rate(trial.strict.wer, 1), _rate(trial.strict.exact_match, 1), training_time(trial)]
    return [
        _place(row, comparison),
        *named,
        _rate(trial.cer),
        *([_half_width(statistics.interval_of(trial))] if statistics.intervals else []),
        _rate(trial.normalised.cer if trial.normalised else None),
        change(row.gain).replace(" ", ""),
        *(more if is_wide else []),
    ]


def _place(row: Row, comparison: Comparison) -> str:
    """The rank, marked where the trial is as good as the best for all one can tell."""
    if row.trial.is_base:
        return "base"
    is_alike = row is not comparison.best and row.trial in comparison.statistics.best_group
    return f"≈{row.rank}" if is_alike else str(row.rank)


def _half_width(interval: Interval | None) -> str:
    return "–" if interval is None else f"{50 * (interval.high - interval.low):.2f}"


def _rate(fraction: float | None, digits: int = 2) -> str:
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}"
