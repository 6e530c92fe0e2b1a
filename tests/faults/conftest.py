"""A small corpus with its features, and a sweep that nothing disturbed."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.sweeps import TWELVE, Place
from tests.integration.conftest import Workplace, corpus, prepared

__all__ = ["corpus", "prepared"]


@dataclass(frozen=True)
class Undisturbed:
    """What a sweep over TWELVE gives when nobody disturbs it, and the seconds of the processors that it takes."""

    place: Place
    trials: list[dict[str, Any]]
    weights: dict[str, str]
    seconds: float

    def rates(self, temperature: float = 0.0, lr: float = 1e-3) -> dict[int, float]:
        """CER by rank, at one temperature and learning rate."""
        found = {}
        for trial in self.trials:
            params = trial["params"]
            if (params["decoding.text_temperature"], params["optim.lr"]) == (temperature, lr):
                found[params["lora.r"]] = trial["scores"]["cer"]
        return found


@pytest.fixture(scope="session")
def new_place(prepared: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Place]:
    """Makes folders with ``data/`` and a store of features and nothing else, or with all that another place's has."""

    def make(like: Place | None = None, store: Path | None = None) -> Place:
        folder = tmp_path_factory.mktemp("faults")
        store = store or folder / "store"
        shutil.copytree(prepared.folder / "data", folder / "data")
        shutil.copytree(prepared.store if like is None else like.store, store, dirs_exist_ok=True)
        return Place(folder, store)

    return make


@pytest.fixture
def place(new_place: Callable[..., Place]) -> Place:
    """A place of the test's own."""
    return new_place()


@pytest.fixture(scope="session")
def undisturbed(new_place: Callable[..., Place]) -> Undisturbed:
    """The sweep over TWELVE, once."""
    place = new_place()
    before = processor_seconds()
    done = place.sweep(*TWELVE)
    assert done.code == 0, done.said
    trials, weights = place.trials(), place.weights()
    assert len(trials) == 12 and len(weights) == 6
    return Undisturbed(place, trials, weights, processor_seconds() - before)


def processor_seconds() -> float:
    """What the children of this process, and theirs, have used until they ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
