"""Small products to be listed, checked and removed."""

from __future__ import annotations

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
