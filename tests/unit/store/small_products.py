"""Small products to be listed, checked and removed, and processes that make them at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kimi_audio_ft import store
from kimi_audio_ft.files import write_json
from kimi_audio_ft.store.features import RECORD


def make_two_files(folder: Path) -> dict[str, Any]:
    (folder / "a.bin").write_bytes(b"x" * 1000)
    (folder / "deep").mkdir()
    (folder / "deep" / "b.txt").write_text("字", encoding="utf-8")
    return {"steps": 3}


def entries(root: Path) -> list[str]:
    """Everything below the store but locks."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.suffix != ".lock")


def told_to_go_on(commands: Sequence[Sequence[str]]) -> list[list[str]]:
    """What programs print that begin with "asking" and wait for a line: all of them get it when the last one asks."""
    with ExitStack() as running:
        processes = []
        for words in commands:
            command = [sys.executable, "-c", *words]
            process = running.enter_context(
                subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            running.callback(process.kill)
            processes.append(process)
        assert [process.stdout.readline() for process in processes] == ["asking\n"] * len(processes)
        for process in processes:
            process.stdin.write("go on\n")
            process.stdin.close()
        return [process.stdout.read().splitlines() for process in processes]


def write_features(name: str, shards: dict[str, int], records: list[tuple[bytes, int, int, int]]) -> Path:
    """A feature store of width 2 with files of these sizes and this index."""
    folder = store.product_path("features", name)
    folder.mkdir(parents=True)
    for file, size in shards.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(bytes(size))
    (folder / "index.bin").write_bytes(np.array(records, RECORD).tobytes())
    write_json(folder / "product.json", {"created": "2026-11-24T10:00:00+0000", "dim": 2, "dtype": "torch.bfloat16"})
    return folder
