"""The ten published pairs of the experiment report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

Pairs = tuple[dict[str, str], dict[str, str]]


@pytest.fixture(scope="session")
def report_pairs(shared_dir: Path) -> Pairs:
    """References and hypotheses by the number of their row."""
    lines = (shared_dir / "data" / "report_eval_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    return {str(p["id"]): p["reference"] for p in pairs}, {str(p["id"]): p["hypothesis"] for p in pairs}
