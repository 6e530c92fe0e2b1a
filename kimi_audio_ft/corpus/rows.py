"""Row selection: each CSV row becomes a segment (recording, transcript, id, group) or a rejection with its reason."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from kimi_audio_ft.config.commands import PrepareConfig
from kimi_audio_ft.corpus.csv_table import CsvRow, CsvTable
from kimi_audio_ft.corpus.noise import signal_to_noise
from kimi_audio_ft.corpus.reasons import Problem, Rejection
from kimi_audio_ft.corpus.transcripts import check_transcript, is_empty_cell, num_characters, same_words, without_tags
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.manifest.audio import AudioError, Recording, Sound, decode, open_recording
from kimi_audio_ft.manifest.part import KEYS, WHOLE, Part
from kimi_audio_ft.text import with_formula

# Ten steps of 16 bits: less is no microphone's, but silence, an offset, or samples scaled down once too often.
_LEAST_SWING = 10 / 32768
_FULL_SCALE, _MOST_CLIPPED = 0.999, 0.5

# Other numbers that Python reads, such as 1_000, nan and -0, are mistakes in a table.
_SECONDS = re.compile(r"\+?(\d{1,9}(\.\d*)?|\.\d+)([eE]-?\d\d?)?", re.ASCII)
_CHANNEL = re.compile(r"\d{1,3}", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Measured:
    """Length, content digest and noise of a recording or its part, or the problem that makes it unusable."""

    seconds: float = 0.0
    digest: str = ""
    problem: Problem | None = None
    snr: float | None = None  # in dB; None where it was not asked for or cannot be told


@dataclass(frozen=True)
class Segment:
    """One usable row."""

    row: CsvRow
    audio: Path
    text: str  # transcript, stripped
    id: str = ""
    group: str = ""
    heard: Measured = Measured()
    part: Part = WHOLE
    columns: Mapping[str, str] = field(default_factory=dict)  # those to keep, by name


def select_segments(
    table: CsvTable, rows: Sequence[CsvRow], config: PrepareConfig
) -> tuple[list[Segment], list[Rejection]]:
    """Turns each row into a segment, in file order and with a unique id, or into a rejection.

    Rules run from the cheapest to the most expensive, and a row is rejected by the first that it breaks. Of several
    equal recordings the first usable one is kept, and none if their transcripts differ: nobody can tell which is right.
    ConfigError: ``audio_pattern`` names a column that does not exist.
    """
    _check_audio_pattern(table, config)
    rejections = [Rejection(row.line, "malformed_row", row.problem, row.cells) for row in rows if row.problem]
    segments = [_segment(row, table, config) for row in rows if not row.problem]
    lowest, highest = config.min_chars_per_second, config.max_chars_per_second
    first_line: dict[str, int] = {}
    by_table = (
        lambda segment: check_transcript(segment.text, config.tags),
        lambda segment: _check_named(segment, table),
        lambda segment: _check_part(segment, table),
        lambda segment: _check_group(segment, config),
    )
    by_ear = (
        lambda segment: segment.heard.problem,
        lambda segment: check_speech_rate(segment.text, segment.heard.seconds, lowest, highest),
    )
    by_comparison = (
        lambda segment: check_other_transcript(segment, alike[segment.heard.digest]),
        lambda segment: check_repeated(segment.heard.digest, segment.row.line, first_line),
    )
    segments = _unbroken(by_table, segments, rejections)
    segments = [replace(segment, part=_part(segment, table)) for segment in segments]
    heard = _hear_all(segments, config)
    segments = [replace(segment, heard=heard[segment.audio, segment.part]) for segment in segments]
    segments = _unbroken(by_ear, segments, rejections)
    alike: dict[str, list[Segment]] = {}
    for segment in segments:
        alike.setdefault(segment.heard.digest, []).append(segment)
    segments = _unbroken(by_comparison, segments, rejections)
    ids = number_repeats([segment.id for segment in segments])
    groups = _own_groups(segments, ids)
    named = zip(segments, ids, groups, strict=True)
    return [replace(segment, id=id_, group=segment.group or group) for segment, id_, group in named], rejections


def _unbroken(
    rules: Sequence[Callable[[Segment], Problem | None]], segments: Sequence[Segment], rejections: list[Rejection]
) -> list[Segment]:
    """Segments that break no rule; the others are added to the rejections."""
    kept = []
    for segment in segments:
        problem = next(filter(None, (rule(segment) for rule in rules)), None)
        if problem:
            rejections.append(Rejection(segment.row.line, *problem, segment.row.cells))
        else:
            kept.append(segment)
    return kept


def number_repeats(names: Sequence[str], reserved: Iterable[str] = ()) -> list[str]:
    """Makes names unique: repeats become ``name-2``, ``name-3``, ..., avoiding ``reserved`` names."""
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


def _own_groups(segments: Sequence[Segment], ids: Sequence[str]) -> list[str]:
    """Groups where no option says them: the id, or one name for all parts of a recording."""
    recordings = list(dict.fromkeys(os.path.realpath(segment.audio) for segment in segments if segment.part != WHOLE))
    names = dict(zip(recordings, number_repeats([Path(path).stem for path in recordings]), strict=True))
    return [
        id_ if segment.part == WHOLE else names[os.path.realpath(segment.audio)]
        for segment, id_ in zip(segments, ids, strict=True)
    ]


def _segment(row: CsvRow, table: CsvTable, config: PrepareConfig) -> Segment:
    cells = {name: cell.strip() for name, cell in row.cells.items()}
    name, text = cells[table.chosen["audio_column"]], cells[table.chosen["text_column"]]
    if table.quotes_formulas:
        text = with_formula(text)
    if name.startswith("~"):
        name = os.path.expanduser(name)  # noqa: PTH111 (leaves an unknown user's as it is)
    fields = cells | {"csv_dir": str(table.path.parent), "audio": name}
    pattern = "{audio}" if Path(name).is_absolute() else config.audio_pattern
    audio = Path(_PLACEHOLDER.sub(lambda match: fields[match[1]], pattern))
    id_column, group_column = table.chosen.get("id_column"), table.chosen.get("group_column")
    return Segment(
        row,
        audio,
        text=without_tags(text) if config.tags == "strip" else text,
        id=(cells[id_column] if id_column else "") or audio.stem,
        group=cells[group_column] if group_column else _group_of(audio, config.group_pattern),
        columns={name: cells[name] for name in table.kept},
    )


def _check_audio_pattern(table: CsvTable, config: PrepareConfig) -> None:
    known = ["csv_dir", "audio", *table.columns]
    for name in _PLACEHOLDER.findall(config.audio_pattern):
        if name not in known:
            listed = ", ".join(f"{{{each}}}" for each in dict.fromkeys(known))
            raise ConfigError("audio_pattern", config.audio_pattern, f"{{{name}}} is none of {listed}")


def _group_of(audio: Path, pattern: str | None) -> str:
    """Match of ``pattern`` in the file name, or ""."""
    match = re.search(pattern, audio.name) if pattern else None
    return (match[match.re.groups] or "").strip() if match else ""


def _check_named(segment: Segment, table: CsvTable) -> Problem | None:
    column = table.chosen["audio_column"]
    cell = segment.row.cells[column].strip()
    if cell and not is_empty_cell(cell):
        return None
    return Problem("missing_audio", f"column {column!r} is {cell or 'empty'}; it must name a recording")


def _part_cells(segment: Segment, table: CsvTable) -> dict[str, tuple[str, str]]:
    """Column and cell of start, end and channel, as far as options name them."""
    columns = {key: table.chosen[f"{key}_column"] for key in KEYS if f"{key}_column" in table.chosen}
    return {key: (column, segment.row.cells[column].strip()) for key, column in columns.items()}


def _check_part(segment: Segment, table: CsvTable) -> Problem | None:
    """Rejects cells that say no part of any recording."""
    for key, (column, cell) in _part_cells(segment, table).items():
        if key == "channel" and not _CHANNEL.fullmatch(cell):
            return Problem("no_channel", f"column {column!r} is {cell!r}; it must be a channel's number from 0")
        if key != "channel" and not _SECONDS.fullmatch(cell):
            rule = "it must be seconds from the recording's beginning, such as 12.34"
            return Problem("bad_segment", f"column {column!r} is {cell!r}; {rule}")
    part = _part(segment, table)
    if part.start is not None and part.end is not None and part.end <= part.start:
        return Problem("bad_segment", f"its end, {part.end:.10g} s, must come after its start, {part.start:.10g} s")
    return None


def _part(segment: Segment, table: CsvTable) -> Part:
    cells = _part_cells(segment, table)
    return Part.of({key: (int if key == "channel" else float)(cell) for key, (_, cell) in cells.items()})


def _check_group(segment: Segment, config: PrepareConfig) -> Problem | None:
    if segment.group or (config.group_column is None and config.group_pattern is None):
        return None
    if config.group_column is not None:
        return Problem("no_group", f"group_column={config.group_column!r} is empty; it must name the recording")
    detail = f"group_pattern={config.group_pattern!r} finds nothing in {segment.audio.name!r}; it must find the group"
    return Problem("no_group", detail)


def _hear_all(segments: Sequence[Segment], config: PrepareConfig) -> Mapping[tuple[Path, Part], Measured]:
    """Decodes every recording, or part of one, once, in threads (libsndfile and SHA-256 release the GIL)."""
    from rich.console import Console
    from rich.progress import track

    parts: dict[Path, dict[Part, None]] = {}
    for segment in segments:
        parts.setdefault(segment.audio, {})[segment.part] = None
    paths = sorted(parts)
    executor, limits = ThreadPoolExecutor(config.workers), (config.min_seconds, config.max_seconds)
    try:
        outcomes = executor.map(lambda path: hear(path, parts[path], *limits, config.snr), paths)
        console = Console(stderr=True)
        shown = track(outcomes, "Checking recordings", total=len(paths), console=console)
        return {(path, part): heard for path, found in zip(paths, shown, strict=True) for part, heard in found.items()}
    finally:
        # Without this, Ctrl-C would wait for every queued recording.
        executor.shutdown(cancel_futures=True)


# Rejection rules: one function each, returning a ``Problem`` or None.


def check_duration(seconds: float, shortest: float, longest: float) -> Problem | None:
    """Rejects lengths (seconds) outside the limits, which are inclusive."""
    if seconds < shortest:
        return Problem("too_short", f"{seconds:.3f} s is shorter than min_seconds={shortest:g}")
    if seconds > longest:
        return Problem("too_long", f"{seconds:.3f} s is longer than max_seconds={longest:g}")
    return None


def check_speech_rate(text: str, seconds: float, lowest: float, highest: float) -> Problem | None:
    """Rejects implausible characters per second, a sign that the transcript belongs to another recording."""
    count = num_characters(text)
    rate = count / seconds
    if lowest <= rate <= highest:
        return None
    limit = f"below min_chars_per_second={lowest:g}" if rate < lowest else f"above max_chars_per_second={highest:g}"
    return Problem("chars_per_second", f"{count} characters in {seconds:.3f} s are {rate:.2f} a second, {limit}")


def check_repeated(digest: str, line: int, first_line: dict[str, int]) -> Problem | None:
    """Rejects samples that an earlier row has; ``first_line`` collects the first line of every digest."""
    first = first_line.setdefault(digest, line)
    return None if first == line else Problem("duplicate_audio", f"same samples as the recording of line {first}")


def check_other_transcript(segment: Segment, alike: Sequence[Segment]) -> Problem | None:
    """Rejects samples that another row has with other words; ``alike``: all segments with these samples."""
    for other in alike:
        if other is not segment and not same_words(other.text, segment.text):
            detail = f"same samples as the recording of line {other.row.line}, which has the transcript {other.text!r}"
            if segment.part == WHOLE:
                detail += "; if rows are segments of a recording, set start_column and end_column"
            return Problem("other_transcript", detail)
    return None


def hear(
    path: str | Path, parts: Iterable[Part], shortest: float, longest: float, snr: bool = False
) -> dict[Part, Measured]:
    """Decodes parts of a recording, unless their length according to the header is outside the limits.

    Args:
        snr: also estimate their signal-to-noise ratios.
    """
    try:
        recording = open_recording(path)
    except AudioError as error:
        hint = lookalike(Path(path)) if error.reason == "missing_audio" else ""
        return dict.fromkeys(parts, Measured(problem=Problem(error.reason, f"{error}{hint}")))
    return {part: _hear_part(recording, part, shortest, longest, snr) for part in parts}


def _hear_part(recording: Recording, part: Part, shortest: float, longest: float, snr: bool) -> Measured:
    try:
        heard = recording.only(part)
        problem = check_duration(heard.seconds, shortest, longest)
        if problem:
            return Measured(problem=problem)
        sound = decode(heard)
        problem = check_level(sound)
        if problem:
            return Measured(problem=problem)
        noise = signal_to_noise(sound.mono(), sound.sample_rate) if snr else None
        return Measured(heard.seconds, sound.digest(), snr=noise)
    except AudioError as error:
        return Measured(problem=Problem(error.reason, str(error)))


def lookalike(path: Path) -> str:
    """A hint at the file that a missing recording's name may mean, or ""."""
    if "\\" in path.name:
        return "; write / between folders, not \\"
    for key in (_folded(path.name), _folded(path.stem)):
        if found := _names_in(path.parent).get(key):
            return f"; there is {found!r}, whose case, accents or ending differ"
    return ""


@lru_cache(maxsize=64)
def _names_in(folder: Path) -> dict[str, str]:
    """Files of a folder by their names and their stems, case and composition of accents aside."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (names alone)
    except (OSError, ValueError):  # it cannot be read, or its name is too long or has a null character
        return {}
    return {_folded(Path(name).stem): name for name in names} | {_folded(name): name for name in names}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def check_level(sound: Sound) -> Problem | None:
    """Rejects recordings that nothing can be heard in, or that are clipped for most of their length."""
    samples = sound.mono()
    low, high = float(samples.min()), float(samples.max())
    if high - low < _LEAST_SWING:
        kind = "all samples are" if high == low else "samples stay within 0.03 % of full scale of"
        where = "0: digital silence" if abs(high) < _LEAST_SWING else f"{high:.3g}, a constant"
        return Problem("silent_audio", f"{kind} {where}")
    clipped = float(np.mean(np.abs(samples) >= _FULL_SCALE))
    if clipped > _MOST_CLIPPED:
        return Problem("clipped_audio", f"{clipped:.0%} of the samples lie at full scale or above it")
    return None
