"""What a run of ``prepare`` kept, rejected and wrote: as JSON and as tables in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kimi_audio_ft.data.cleaning import REASONS, Rejection


@dataclass(frozen=True)
class SplitSummary:
    """Size of one manifest."""

    segments: int
    groups: int
    hours: float


@dataclass(frozen=True)
class PrepareSummary:
    """The content of ``summary.json``: no times and no host, so that equal runs write equal files."""

    config: dict[str, Any]  # the options of the run
    csv_sha256: str
    encoding: str  # the one the CSV was read with
    rows: int  # rows that were read
    rows_beyond_limit: int  # rows that row_limit left unread
    rejected: dict[str, int]  # reason -> rows
    splits: dict[str, SplitSummary]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def count_reasons(rejections: Sequence[Rejection]) -> dict[str, int]:
    """Rows per reason, in the order of ``REASONS``, without the reasons that did not occur."""
    counts = Counter(rejection.reason for rejection in rejections)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


def print_summary(summary: PrepareSummary) -> None:
    """Two tables on stdout: rejected rows per reason, and the splits."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rejected = sum(summary.rejected.values())
    left = f" ({summary.rows_beyond_limit} more beyond row_limit)" if summary.rows_beyond_limit else ""
    console.print(f"{summary.config['csv']}: {summary.rows} rows{left}, read as {summary.encoding}", highlight=False)
    if rejected:
        reasons = Table("reason", "rows", "rule", title=f"{rejected} rows left out, each one in rejected.jsonl")
        for reason, count in summary.rejected.items():
            reasons.add_row(reason, str(count), REASONS[reason])
        console.print(reasons)
    splits = Table("split", "segments", "recordings", "hours", title=f"Manifests in {summary.config['out']}")
    for name, split in summary.splits.items():
        splits.add_row(f"{name}.jsonl", str(split.segments), str(split.groups), f"{split.hours:.3f}")
    console.print(splits)
