"""What the comparisons with the published model share."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor


@pytest.fixture(scope="session")
def golden(shared_dir: Path) -> Path:
    """Folder of the recorded numbers."""
    return shared_dir / "golden"


@pytest.fixture(scope="session")
def waveforms(golden: Path) -> dict[str, Tensor]:
    """The recorded clips, float32 in [-1, 1]."""
    return {name: samples / 32768 for name, samples in load_file(golden / "audio.safetensors").items()}
