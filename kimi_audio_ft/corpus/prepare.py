"""CSV to manifests: read, clean, split, balance, write and summarise. ``prepare`` is the command without Hydra."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from kimi_audio_ft.config.commands import SNR, PrepareConfig
from kimi_audio_ft.config.data_file import DATA_FILE, data_file_text, word_for
from kimi_audio_ft.corpus.csv_table import CsvTable, read_csv
from kimi_audio_ft.corpus.decisions import Decisions
from kimi_audio_ft.corpus.reasons import REASONS, Rejection
from kimi_audio_ft.corpus.rows import Segment, number_repeats, select_segments
from kimi_audio_ft.corpus.splits import EVAL, SPLITS, TEST, TRAIN, balance, split_by_group
from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.files import written_aside
from kimi_audio_ft.text import printable

_COLUMN_OPTIONS = (
    *("audio_column", "text_column", "group_column", "id_column", "balance_column"),
    *("start_column", "end_column", "channel_column"),
)


def prepare(config: PrepareConfig) -> PrepareSummary:
    """Writes the manifest of each requested split, ``data.yaml``, ``rejected.jsonl`` and ``summary.json`` into ``out``.

    Output is deterministic: the same command writes the same bytes.

    Raises:
        UserError: the CSV or the decisions cannot be read; or more than ``max_refused`` of the rows, or all, are
            refused, a decision cannot be applied, or a split would be empty: then only ``rejected.jsonl`` is written.
    """
    out = _make_folder(config.out)
    table = _read_table(config)
    decisions = Decisions.read(config.decisions)
    rows = table.rows[: config.row_limit]
    segments, rejections = select_segments(table, rows, config)
    write_lines_together(out, {"rejected.jsonl": _rejected_lines(rejections)})
    if not segments:
        raise UserError(_nothing_left(config, rejections, out))
    if len(rejections) > config.max_refused * len(rows):
        raise UserError(_too_many(config, rejections, len(rows), out))
    decisions = decisions.on_rows({segment.id for segment in segments}, config)
    segments = decisions.corrected(segments, config)
    splits = _split(segments, decisions, rejections, table, config)
    manifests = {
        f"{split}.jsonl": [_json_line(manifest_record(segment, out, config)) for segment in members]
        for split, members in splits.items()
    }
    summary = PrepareSummary(
        config=asdict(config),
        csv_sha256=hashlib.sha256(table.path.read_bytes()).hexdigest(),
        encoding=table.encoding,
        rows=len(rows),
        rows_beyond_limit=len(table.rows) - len(rows),
        rejected=count_reasons(rejections),
        examples=examples(rejections),
        splits={split: _size(members) for split, members in splits.items()},
    )
    summary_text = json.dumps(asdict(summary), ensure_ascii=False, indent=2) + "\n"
    records = {"rejected.jsonl": _rejected_lines(rejections), "summary.json": [summary_text]}
    records[DATA_FILE] = [data_file_text(splits)]
    write_lines_together(out, manifests | records)
    for split in SPLITS:
        if split not in splits:
            # A stale manifest could share recordings with the new ones.
            (out / f"{split}.jsonl").unlink(missing_ok=True)
    return summary


def manifest_record(segment: Segment, out: Path, config: PrepareConfig) -> dict[str, Any]:
    """One manifest line in the published conversation format, with our ``id`` and ``group``.

    And with the part of the recording and the columns to keep, if there are any.
    """
    audio = {"content": manifest_path(segment.audio, out), **segment.part.fields()}
    noise = {SNR: _decibels(segment.heard.snr)} if config.snr else {}
    columns = {**segment.columns, **noise}
    return {
        "id": segment.id,
        "group": segment.group,
        **({"columns": columns} if columns else {}),
        "task_type": config.task_type,
        "conversation": [
            {"role": "user", "message_type": "text", "content": config.prompt},
            {"role": "user", "message_type": "audio", **audio},
            {"role": "assistant", "message_type": "text", "content": segment.text},
        ],
    }


def _decibels(snr: float | None) -> str:
    """A cell of the column, empty where nothing could be measured."""
    return "" if snr is None else f"{snr:.1f}"


def manifest_path(audio: Path, out: Path) -> str:
    """Path of a recording as written in a manifest in ``out``.

    Relative if the recording lies under the parent folder of ``out``, so that this parent can be moved or copied as a
    whole; absolute otherwise. Symbolic links are resolved first, because ``..`` is ambiguous behind one.
    """
    folder, recording = out.resolve(), audio.resolve()
    if recording.is_relative_to(folder.parent):
        return Path(os.path.relpath(recording, folder)).as_posix()
    return str(recording)


def write_lines_together(out: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Writes drafts of all files before renaming any, so that a full disk leaves all of them unchanged.

    UserError: the disk is full. DataError: the folder cannot be written.
    """
    try:
        with ExitStack() as written:
            for name, lines in files.items():
                draft = written.enter_context(written_aside(out / name))
                with draft.open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(lines)
    except OSError as error:
        raise DataError(out, f"cannot write here ({error.strerror})", "Set another out=") from None


def _make_folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(folder, f"cannot make this folder ({error.strerror})", "Set another out=") from None
    return folder


def _read_table(config: PrepareConfig) -> CsvTable:
    columns = {option: getattr(config, option) for option in _COLUMN_OPTIONS}
    table = read_csv(
        config.csv,
        {option: column for option, column in columns.items() if column is not None},
        keep=config.keep_columns,
        encoding=config.encoding,
        delimiter=config.delimiter,
        header=config.header,
        quotechar=config.quotechar,
    )
    if config.snr and SNR in table.kept:
        rule = f"estimates a column {SNR}, and keep_columns keeps one of that name"
        raise ConfigError("snr", config.snr, rule, "Leave out one of the two")
    return table


def _split(
    segments: list[Segment],
    decisions: Decisions,
    rejections: list[Rejection],
    table: CsvTable,
    config: PrepareConfig,
) -> dict[str, list[Segment]]:
    """Segments of each requested split in file order; what decisions or balancing drop is added to the rejections.

    Splits are made of all segments: a decision moves no other row to another split.
    """
    groups = [segment.group for segment in segments]
    members: dict[str, list[Segment]] = {split: [] for split in SPLITS}
    for segment, split in zip(
        segments, split_by_group(groups, config.eval_ratio, config.test_ratio, config.seed), strict=True
    ):
        members[split].append(segment)
    members = {split: decisions.kept(of_split, split, rejections) for split, of_split in members.items()}
    held_out = {segment.id for split in (EVAL, TEST) for segment in members[split]}
    members[TRAIN] = _balance(members[TRAIN], rejections, table, config, reserved=held_out)
    asked_for = {TRAIN: True, EVAL: config.eval_ratio > 0, TEST: config.test_ratio > 0}
    return {split: members[split] for split in SPLITS if asked_for[split]}


def _balance(
    segments: list[Segment],
    rejections: list[Rejection],
    table: CsvTable,
    config: PrepareConfig,
    reserved: set[str],
) -> list[Segment]:
    """Training segments, balanced over the balance column; dropped ones are added to the rejections."""
    if config.balance_mode == "none":
        return segments
    column = table.chosen["balance_column"]
    values = [segment.row.cells[column].strip() for segment in segments]
    kept = balance(values, config.seed, config.balance_mode)
    for index in sorted(set(range(len(segments))) - set(kept)):
        detail = f"balance_mode={config.balance_mode}: {column}={values[index]!r} occurs more often than another value"
        row = segments[index].row
        rejections.append(Rejection(row.line, "balanced_out", detail, row.cells))
    ids = number_repeats([segments[index].id for index in kept], reserved)
    return [replace(segments[index], id=id_) for index, id_ in zip(kept, ids, strict=True)]


def _size(segments: Sequence[Segment]) -> SplitSummary:
    hours = sum(segment.heard.seconds for segment in segments) / 3600
    return SplitSummary(len(segments), len({segment.group for segment in segments}), round(hours, 6))


def _rejected_lines(rejections: Sequence[Rejection]) -> list[str]:
    return [_json_line(asdict(rejection)) for rejection in sorted(rejections, key=lambda each: each.line)]


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _nothing_left(config: PrepareConfig, rejections: Sequence[Rejection], out: Path) -> str:
    counts = ", ".join(f"{reason} {count}" for reason, count in count_reasons(rejections).items()) or "no rows"
    first = min(rejections, key=lambda each: each.line, default=None)
    example = f" The first: line {first.line}, {first.detail}." if first else ""
    return (
        f"{config.csv}: no row is left after cleaning ({counts}), and a manifest needs at least one.{example} "
        f"See {out / 'rejected.jsonl'}"
    )


def _too_many(config: PrepareConfig, rejections: Sequence[Rejection], rows: int, out: Path) -> str:
    shown = examples(rejections)
    lines = [f"  {reason} {count}, such as {shown[reason]}" for reason, count in count_reasons(rejections).items()]
    return "\n".join(
        [
            f"{config.csv}: {len(rejections)} of {rows} rows are refused, more than max_refused={config.max_refused:g} "
            "allows, and no manifest is written:",
            *lines,
            f"All of them are in {out / 'rejected.jsonl'}. Correct the rows or the options (audio_pattern says where "
            "recordings are), or set max_refused=1 to go on without them",
        ]
    )


@dataclass(frozen=True)
class SplitSummary:
    segments: int
    groups: int
    hours: float


@dataclass(frozen=True)
class PrepareSummary:
    """Content of ``summary.json``; no times or host names, so that equal runs write equal files."""

    config: dict[str, Any]  # the options of the run
    csv_sha256: str
    encoding: str  # used to read the CSV
    rows: int  # rows read
    rows_beyond_limit: int  # rows not read because of row_limit
    rejected: dict[str, int]  # reason -> rows
    examples: dict[str, str]  # reason -> the first such row, in words
    splits: dict[str, SplitSummary]


def count_reasons(rejections: Sequence[Rejection]) -> dict[str, int]:
    """Number of rows per rejection reason that occurs, in the order of ``REASONS``."""
    counts = Counter(rejection.reason for rejection in rejections)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


def examples(rejections: Sequence[Rejection]) -> dict[str, str]:
    """The first row of every reason in words, in the order of ``count_reasons``."""
    first: dict[str, Rejection] = {}
    for rejection in sorted(rejections, key=lambda each: each.line):
        first.setdefault(rejection.reason, rejection)
    return {reason: f"line {first[reason].line}: {first[reason].detail}" for reason in count_reasons(rejections)}


def print_summary(summary: PrepareSummary) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    csv, out = (escape(printable(summary.config[name])) for name in ("csv", "out"))
    rejected = sum(summary.rejected.values())
    left = f" ({summary.rows_beyond_limit} more beyond row_limit)" if summary.rows_beyond_limit else ""
    console.print(f"{csv}: {summary.rows} rows{left}, read as {summary.encoding}", highlight=False)
    if rejected:
        reasons = Table("reason", "rows", "rule", "example", title=f"{rejected} rows left out, all in rejected.jsonl")
        for reason, count in summary.rejected.items():
            example = escape(shorten(printable(summary.examples[reason]), 160, placeholder=" ..."))
            reasons.add_row(reason, str(count), escape(REASONS[reason]), example)
        console.print(reasons)
    splits = Table("split", "segments", "recordings", "hours", title=f"Manifests in {out}")
    for name, split in summary.splits.items():
        splits.add_row(f"{name}.jsonl", str(split.segments), str(split.groups), f"{split.hours:.3f}")
    console.print(splits)
    folder = escape(printable(shlex.quote(word_for(summary.config["out"]))))
    said = f"next: python -m kimi_audio_ft.tokenize manifests={folder}, then kimi_audio_ft.train with data={folder}"
    console.print(said, soft_wrap=True, highlight=False)
