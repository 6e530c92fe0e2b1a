"""A small corpus with its features, and a sweep that nothing disturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.sweeps import ADAPTERS, SWEPT, Place, until
from tests.integration.conftest import MadeOnce, Workplace, corpus, prepared

__all__ = ["corpus", "prepared"]


@dataclass(frozen=True)
class Undisturbed:
    """What a sweep over SWEPT gives when nobody disturbs it, and the seconds of the processors that it takes."""

    place: Place
    trials: list[dict[str, Any]]
    seconds: float

    def rates(self) -> dict[int, float]:
        """CER by rank, of greedy decoding, at the learning rate 1e-3."""
        found = {}
        for trial in self.trials:
            params = trial["params"]
            if (params["decoding.text_temperature"], params["optim.lr"]) == (0.0, 1e-3):
                found[params["lora.r"]] = trial["scores"]["cer"]
        return found


@pytest.fixture(scope="session")
def new_place(prepared: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Place]:
    """Makes folders with ``data/`` and a store of features and nothing else, or with all that another place's has."""

    def make(other: Place | None = None, store: Path | None = None) -> Place:
        return like(other or prepared, tmp_path_factory.mktemp("faults"), store)

    return make


def like(other: Place | Workplace, folder: Path, store: Path | None = None) -> Place:
    """A place in ``folder`` with the data and the store of another one."""
    place = Place(folder, store or folder / "store")
    shutil.copytree(other.folder / "data", place.folder / "data")
    shutil.copytree(other.store, place.store, dirs_exist_ok=True)
    return place


@pytest.fixture(scope="session")
def undisturbed(prepared: Workplace, made_once: MadeOnce) -> Undisturbed:
    """The sweep over SWEPT, once for all test processes."""

    def run(folder: Path) -> None:
        running, used = like(prepared, folder).start(*SWEPT), [0.0]

        def ended() -> bool:
            used.append(running.processor_seconds())
            return running.ended() is not None

        until(ended)
        done = running.wait()
        assert done.code == 0, done.said
        (folder / "seconds").write_text(str(max(used)), encoding="utf-8")

    folder = made_once("undisturbed", run)
    place = Place(folder, folder / "store")
    trials = place.trials()
    assert len(trials) == 2 * ADAPTERS and len(place.products("adapter")) == ADAPTERS
    return Undisturbed(place, trials, float((folder / "seconds").read_text(encoding="utf-8")))
