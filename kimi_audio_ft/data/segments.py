"""The rows of a CSV that can be used, each with its recording, transcript, id and group."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from kimi_audio_ft.config.commands import PrepareConfig
from kimi_audio_ft.data.cleaning import (
    Heard,
    Problem,
    Rejection,
    check_speech_rate,
    check_transcript,
    find_duplicates,
    hear,
)
from kimi_audio_ft.data.csv_table import CsvRow, CsvTable
from kimi_audio_ft.errors import ConfigError

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Segment:
    """One usable row."""

    row: CsvRow
    audio: Path
    text: str  # transcript without blanks around it
    id: str = ""
    group: str = ""
    seconds: float = 0.0
    digest: str = ""  # identity of the samples


def select_segments(
    table: CsvTable, rows: Sequence[CsvRow], config: PrepareConfig
) -> tuple[list[Segment], list[Rejection]]:
    """Every row of ``rows`` either as a segment, in file order and with a unique id, or as a rejection.

    The rules run from the cheapest to the one that needs all others: a row is named with the first it breaks, and the
    first of several equal recordings is the first that is usable.

    Raises:
        ConfigError: ``audio_pattern`` names a column that does not exist.
    """
    _check_audio_pattern(table, config)
    sieve = _Sieve()
    for row in rows:
        if row.problem:
            sieve.rejections.append(reject(row, Problem("malformed_row", row.problem)))
        else:
            sieve.segments.append(_segment(row, table, config))
    sieve.apply(lambda segment: check_transcript(segment.text))
    sieve.apply(lambda segment: _check_named(segment, table))
    sieve.apply(lambda segment: _check_group(segment, config))
    _listen(sieve, config)
    lowest, highest = config.min_chars_per_second, config.max_chars_per_second
    sieve.apply(lambda segment: check_speech_rate(segment.text, segment.seconds, lowest, highest))
    duplicates = find_duplicates(
        [segment.digest for segment in sieve.segments], [segment.row.line for segment in sieve.segments]
    )
    problem_of = {sieve.segments[index].row.line: problem for index, problem in duplicates.items()}
    sieve.apply(lambda segment: problem_of.get(segment.row.line))
    ids = number_repeats([segment.id for segment in sieve.segments])
    numbered = [
        replace(segment, id=id_, group=segment.group or id_) for segment, id_ in zip(sieve.segments, ids, strict=True)
    ]
    return numbered, sieve.rejections


def reject(row: CsvRow, problem: Problem) -> Rejection:
    """The rejection of a row."""
    return Rejection(row.line, problem.reason, problem.detail, row.cells)


def number_repeats(names: Sequence[str], reserved: Iterable[str] = ()) -> list[str]:
    """Unique names: the first of equal ones stays, the others become ``name-2``, ``name-3``, ..., avoiding
    ``reserved`` ones."""
    taken = {*names, *reserved}
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        candidate, number = name, seen.get(name, 0) + 1
        while number > 1 and (candidate := f"{name}-{number}") in taken:
            number += 1
        seen[name] = number
        taken.add(candidate)
        unique.append(candidate)
    return unique


class _Sieve:
    """Segments that passed so far, and the rejections of the others."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.rejections: list[Rejection] = []

    def apply(self, rule: Callable[[Segment], Problem | None]) -> None:
        passed = []
        for segment in self.segments:
            problem = rule(segment)
            if problem:
                self.rejections.append(reject(segment.row, problem))
            else:
                passed.append(segment)
        self.segments = passed


def _segment(row: CsvRow, table: CsvTable, config: PrepareConfig) -> Segment:
    cells = {name: cell.strip() for name, cell in row.cells.items()}
    name = cells[table.chosen["audio_column"]]
    fields = cells | {"csv_dir": str(table.path.parent), "audio": name}
    pattern = "{audio}" if Path(name).is_absolute() else config.audio_pattern
    audio = Path(_PLACEHOLDER.sub(lambda match: fields[match[1]], pattern))
    id_column, group_column = table.chosen.get("id_column"), table.chosen.get("group_column")
    return Segment(
        row,
        audio,
        text=cells[table.chosen["text_column"]],
        id=(cells[id_column] if id_column else "") or audio.stem,
        group=cells[group_column] if group_column else _group_of(audio, config.group_pattern),
    )


def _check_audio_pattern(table: CsvTable, config: PrepareConfig) -> None:
    known = ["csv_dir", "audio", *table.columns]
    for name in _PLACEHOLDER.findall(config.audio_pattern):
        if name not in known:
            listed = ", ".join(f"{{{each}}}" for each in dict.fromkeys(known))
            raise ConfigError("audio_pattern", config.audio_pattern, f"{{{name}}} is none of {listed}")


def _group_of(audio: Path, pattern: str | None) -> str:
    """The part of the file name that ``pattern`` finds, or ""."""
    match = re.search(pattern, audio.name) if pattern else None
    return (match[match.re.groups] or "").strip() if match else ""


def _check_named(segment: Segment, table: CsvTable) -> Problem | None:
    column = table.chosen["audio_column"]
    if segment.row.cells[column].strip():
        return None
    return Problem("missing_audio", f"column {column!r} is empty; it must name a recording")


def _check_group(segment: Segment, config: PrepareConfig) -> Problem | None:
    if segment.group or (config.group_column is None and config.group_pattern is None):
        return None
    if config.group_column is not None:
        return Problem("no_group", f"group_column={config.group_column!r} is empty; it must name the recording")
    detail = f"group_pattern={config.group_pattern!r} finds nothing in {segment.audio.name!r}; it must find the group"
    return Problem("no_group", detail)


def _listen(sieve: _Sieve, config: PrepareConfig) -> None:
    """Opens every recording once, in threads (libsndfile and SHA-256 run outside the interpreter's lock)."""
    outcomes = _hear_all({segment.audio for segment in sieve.segments}, config)

    def problem_of(segment: Segment) -> Problem | None:
        outcome = outcomes[segment.audio]
        return outcome if isinstance(outcome, Problem) else None

    sieve.apply(problem_of)
    heard = {audio: outcome for audio, outcome in outcomes.items() if isinstance(outcome, Heard)}
    sieve.segments = [
        replace(segment, seconds=heard[segment.audio].seconds, digest=heard[segment.audio].digest)
        for segment in sieve.segments
    ]


def _hear_all(recordings: Iterable[Path], config: PrepareConfig) -> Mapping[Path, Heard | Problem]:
    from rich.console import Console
    from rich.progress import track

    paths = sorted(recordings)
    executor = ThreadPoolExecutor(config.workers)
    try:
        outcomes = executor.map(lambda path: hear(path, config.min_seconds, config.max_seconds), paths)
        console = Console(stderr=True)
        shown = track(outcomes, "Checking recordings", total=len(paths), console=console)
        return dict(zip(paths, shown, strict=True))
    finally:
        # Without this, Ctrl-C would wait for every recording still in the queue.
        executor.shutdown(cancel_futures=True)
