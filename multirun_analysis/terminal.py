"""The leaderboard in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kimi_audio_ft.scoring.ranking import RATE_HEADINGS
from kimi_audio_ft.text import printable
from multirun_analysis import words
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import ENGLISH, Messages
from multirun_analysis.report.board import Board, BoardRow, CombinedRow
from multirun_analysis.report.combined import Combinations
from multirun_analysis.report.confirmed import headlines, remarks
from multirun_analysis.report.next_steps import next_steps
from multirun_analysis.report.stored_combinations import combinations_shown

MOST_ROWS = 40
NARROW = 52  # columns of text that the scores need; below this and the parameters' share, only the main ones are shown
PARAM_WIDTH = 9
INTERVAL_WIDTH = 7
HEADINGS = {"lora.r": "r", "optim.lr": "lr", "decoding.text_temperature": "temp", "decoding.text_top_k": "top-k"}


def print_leaderboard(
    analysis: Analysis, console: Console | None = None, most_rows: int = MOST_ROWS, failures: bool = True
) -> None:
    """Print the ranked trials and the zero-shot base, the result in one sentence, and what failed.

    Args:
        console: standard output by default.
        most_rows: further rows are counted, not printed; they are all in the report.
        failures: also print a line for every failed trial.
    """
    console, say = console or Console(), ENGLISH.ranking_by(analysis.rank_by)
    console.print(_table(analysis, console.width, most_rows))
    combined = combinations_shown(analysis)
    rows = len(analysis.settings) + (len(combined.rows) if combined else 0)
    if rows > most_rows:
        console.print(f"... and {rows - most_rows} more rows, all in the report")
    if combined is not None:
        _print_conclusion(combined, console, say)
    for headline in headlines(analysis, say):
        console.print(_text(headline), style="bold")
    for remark in remarks(analysis, say):
        console.print(_text(remark))
    for conclusion in [*words.conclusions(analysis, say), *words.learning_in_words(analysis.learning, say)]:
        console.print(_text(conclusion))
    console.print(_text(words.effort(analysis)))
    steps = next_steps(analysis, say)
    if steps:
        console.print(_text(say("next.title")), style="bold")
    for step in steps:
        console.print(_text(step.said))
        for command in step.commands:
            console.print(_text(f"  {command}"), soft_wrap=True)  # in one piece, to copy
    halving = analysis.sweep.halving
    if halving is not None:
        console.print(_text(words.halving_in_words(halving)))
        for one in halving.candidates:
            if one.decision == "failed":
                console.print(_text(f"FAILED at step {one.step} ({one.name}): {one.reason}"), style="red")
    for trial in analysis.sweep.failed if failures else []:
        console.print(_text(f"FAILED {trial.name} ({trial.label}): {trial.failure}"), style="red")


def print_combinations(found: Combinations, console: Console | None = None) -> None:
    """Print the best trial of those combined and every combination, the lowest rate first, with its cost in use."""
    console, say = console or Console(), ENGLISH.ranking_by(found.rank_by)
    table = Table(title=_text(say("combined.title")), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(say("combined.heading"), overflow="fold")
    for heading in (f"{say.rate} %", say("combined.points"), "p", say("combined.decodings")):
        table.add_column(_text(heading), justify="right", no_wrap=True)
    for line in found.lines(say):
        cells = (line.title, line.rate, line.points, line.p, line.decodings)
        style = "bold" if line.is_best else "dim" if line.is_single else None
        table.add_row(*map(_text, cells), style=style)
    console.print(table)
    console.print(_text(found.note(say)))
    _print_conclusion(found, console, say)


def _print_conclusion(found: Combinations, console: Console, say: Messages) -> None:
    console.print(_text(found.verdict(say)))
    if (told := found.told(say)) is not None:
        console.print(_text(told), style="bold")


def _table(analysis: Analysis, console_width: int, most_rows: int) -> Table:
    board = Board(analysis)
    title = _text(f"Sweep {analysis.sweep.folder.resolve().name}")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    further = INTERVAL_WIDTH * board.has_intervals + PARAM_WIDTH * analysis.has_seeds
    is_wide = console_width >= NARROW + PARAM_WIDTH * len(analysis.naming) + further
    for heading in ("#", "trial"):  # its rank, and the trial's number
        table.add_column(heading, justify="right", no_wrap=True)
    for param in analysis.naming:
        heading = HEADINGS.get(param, printable(words.short_key(param)))
        whole = not any(isinstance(value, dict | list) for value in analysis.distinct(param))  # else ends would be cut
        table.add_column(heading, justify="right" if whole else "left", no_wrap=whole, overflow="fold")
    if not analysis.naming:
        table.add_column("setting", overflow="fold")
    ranking, second, third = (RATE_HEADINGS[name] for name in _rates(analysis.rank_by))
    scores = (
        ranking,
        *(("±",) if board.has_intervals else ()),
        *(("seeds",) if analysis.has_seeds else ()),
        second,
        "vs base",
    )
    for heading in (*scores, *((third, "exact %", "train") if is_wide else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in board.lines[:most_rows]:
        if isinstance(line, CombinedRow):
            cells, style = _combined_cells(line, board, is_wide), "bold" if line.is_best else None
        else:
            cells, style = _cells(line, board, is_wide), _style(line, analysis.statistics.is_proven)
        table.add_row(*map(_text, cells), style=style)
    for stopped in board.stopped[: max(0, most_rows - len(board.lines))]:
        one = stopped.adapter
        cells = [
            "fail" if one.decision == "failed" else "stop",
            "–",
            *(stopped.values or [one.name]),
            words.rate(stopped.rate),
        ]
        table.add_row(*map(_text, cells), style="bright_black")
    return table


def _rates(rank_by: str) -> tuple[str, str, str]:
    """The rate that ranks, one beside it, and one more where there is room."""
    return rank_by, "normalised_cer" if rank_by == "cer" else "cer", "mer" if rank_by == "wer" else "wer"


def _text(text: str) -> Text:
    """Text of records, which may be another person's: no markup, and nothing that a terminal obeys."""
    return Text(printable(text))


def _style(line: BoardRow, proven: bool) -> str | None:
    green = " green" if proven else ""
    if line.is_best:
        return f"bold{green}"
    return green.strip() or None if line.is_recommended else "dim" if line.trial.is_base else None


def _combined_cells(line: CombinedRow, board: Board, is_wide: bool) -> list[str]:
    """Its trials stand in the columns that every table has room for."""
    analysis, say = board.analysis, ENGLISH
    half_width = "–" if line.interval is None else f"{50 * (line.interval.high - line.interval.low):.2f}"
    second, third = (line.trial.rate_by(name) for name in _rates(analysis.rank_by)[1:])
    cost = say("combined.cost", n=line.combined.decodings)
    more = [words.rate(third, 1), words.rate(line.scores.exact_match, 1), cost]
    return [
        "⊕mean" if line.combined.kind == "mean" else "⊕MBR",
        line.short,
        *(["–"] * len(analysis.naming) or [line.combined.title(say)]),
        words.rate(line.rate),
        *([half_width] if board.has_intervals else []),
        *(["–"] if analysis.has_seeds else []),
        words.rate(second),
        words.change(line.gain).replace(" ", ""),
        *(more if is_wide else []),
    ]


def _cells(line: BoardRow, board: Board, is_wide: bool) -> list[str]:
    trial, interval, analysis, seeds = line.trial, line.interval, board.analysis, line.setting
    named = [board.value(trial, param) or "–" for param in analysis.naming] or [words.setting_title(trial, analysis)]
    spread = "–" if seeds.spread is None else f"±{words.rate(seeds.spread)} x{len(seeds.trials)}"
    half_width = "–" if interval is None else f"{50 * (interval.high - interval.low):.2f}"
    second, third = (line.rate_by(name) for name in _rates(analysis.rank_by)[1:])
    seconds = trial.record.get("train_seconds")
    trained = words.duration(seconds) if seconds else words.training_time(trial)
    more = [words.rate(third, 1), words.rate(line.scores.exact_match, 1), trained]
    return [
        "base" if trial.is_base else f"{'≈' if line.is_alike else ''}{line.row.rank}",
        "–" if trial.is_base else trial.name,
        *named,
        words.rate(seeds.rate),
        *([half_width] if board.has_intervals else []),
        *([spread] if analysis.has_seeds else []),
        words.rate(second),
        words.change(line.gain).replace(" ", ""),
        *(more if is_wide else []),
    ]
