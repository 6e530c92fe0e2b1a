"""A reader of `.wandb` files, since wandb 0.31 ships none in Python.

The file is LevelDB's log format: after a 7-byte file header, 32 KiB blocks of chunks, each a 7-byte header (crc32,
length, type) and its data; a record is one chunk (type 1) or spans several (2, 3 ... 3, 4), and holds one
`wandb.proto` Record. A block's last bytes are padding when no chunk header fits in.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32 * 1024, 7


def read_records(path: Path) -> Iterator[Any]:
    """Every Record of a `.wandb` file, in order."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, record = HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


@dataclass
class StoredRun:
    """What one offline run holds."""

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    artifact: dict[str, Path] = field(default_factory=dict)
    exit_code: int | None = None

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Points (step, value) of a metric."""
        return [(row["step"], row[name]) for row in self.history if name in row]

    def table(self, name: str) -> dict[str, Any]:
        """Columns and rows of a logged table, from its file."""
        return json.loads((self.folder / "files" / self.summary[f"{name}.path"]).read_text(encoding="utf-8"))


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(folder: Path) -> StoredRun:
    """The run in a folder `.../wandb/offline-run-...`."""
    (path,) = folder.glob("run-*.wandb")
    stored = StoredRun(folder)
    for record in read_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            stored.run = record.run
            stored.config |= _items(record.run.config.update)
        elif kind == "config":
            stored.config |= _items(record.config.update)
        elif kind == "history":
            stored.history.append(_items(record.history.item))
        elif kind == "summary":
            stored.summary |= _items(record.summary.update)
        elif kind == "metric" and record.metric.step_metric:
            stored.step_metrics[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "artifact":
            stored.artifact |= {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
        elif kind == "exit":
            stored.exit_code = record.exit.exit_code
    return stored


def offline_runs(folder: Path) -> list[StoredRun]:
    """The offline runs under a folder, a trial's or any other with ``wandb`` inside."""
    wandb.teardown()  # `Run.finish` returns before wandb-core has written the last block
    return [read_run(path) for path in sorted(folder.glob("wandb/offline-run-*"))]
