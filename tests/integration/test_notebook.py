"""docs/notebook.ipynb as a notebook runs it: its cells one after the other, in one process and one namespace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = "train_manifest: train.tokens.jsonl\neval_manifest: eval.tokens.jsonl\nfeatures: none\n"

pytestmark = pytest.mark.slow


def test_the_notebook_runs_from_its_first_cell_to_its_last(
    coded_manifests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my" / "data"
    folder.mkdir(parents=True)
    for name in ("train", "eval"):
        shutil.copy(coded_manifests / f"{name}.jsonl", folder / f"{name}.tokens.jsonl")
    (folder / "data.yaml").write_text(DATA, encoding="utf-8")
    cells = json.loads((REPOSITORY / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    assert len(namespace["texts"]) == 9 and len({*namespace["rates"]}) == 2
    records = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.rglob("scores.json")]
    assert sorted(one["cer"] for one in records) == sorted(namespace["rates"].values())
    assert any("optim.lr=0.001" in one["command"] and "lora.r=4" in one["command"] for one in records)
