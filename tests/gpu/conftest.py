"""The GPU suite: what a machine without a GPU cannot show. Every test is marked ``gpu`` and skips without CUDA.

It needs PyTorch, transformers, peft, PyTorch Lightning and tiktoken only; experiments/bench_gpu.md has the commands.
``KIMI_AUDIO_FT_GPU_REHEARSAL=1`` runs it on the CPU at the embedded model's shapes, which checks the tests themselves.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from experiments.bench_gpu.shapes import Shapes

HERE = Path(__file__).resolve().parent
NO_GPU = "no CUDA GPU on this machine"
REHEARSAL = os.environ.get("KIMI_AUDIO_FT_GPU_REHEARSAL") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests; without a GPU none of their fixtures may start to load a model."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available() and not REHEARSAL:
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the suite runs: the GPU, or the CPU in a rehearsal."""
    return torch.device("cpu" if REHEARSAL else "cuda")


@pytest.fixture(scope="session")
def full_size() -> Shapes:
    """The shapes of Kimi-Audio-7B; in a rehearsal the embedded model's."""
    from experiments.bench_gpu.shapes import shapes

    return shapes("tiny" if REHEARSAL else "7b")


@pytest.fixture(autouse=True)
def no_tf32(device: torch.device) -> Iterator[None]:
    """float32 means float32 here; a test of what TF32 does turns it on itself."""
    from kimi_audio_ft.model.audio_frontend import float32_arithmetic

    with float32_arithmetic(device):
        yield


@pytest.fixture(scope="module", autouse=True)
def memory_back() -> Iterator[None]:
    """A module's models make room for the next module's."""
    yield
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def distance() -> object:
    """Relative distance of two tensors, ``|ours - reference| / |reference|``, NaN when either is not finite."""

    def measure(ours: Tensor, reference: Tensor) -> float:
        ours, reference = ours.detach().double().cpu(), reference.detach().double().cpu()
        assert ours.shape == reference.shape
        return float((ours - reference).norm() / reference.norm())

    return measure
