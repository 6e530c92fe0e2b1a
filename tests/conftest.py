"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

# Several test processes on two cores crawl with two OpenMP threads each; one thread also makes sums repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real recordings and golden data that lies beside the checkout; the product never needs it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no shared test data at {folder}")
    return folder


@pytest.fixture(autouse=True)
def private_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a store of its own."""
    root = tmp_path / "store"
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(root))
    return root
