"""Two sweeps over one store at the same time: each adapter is trained once, whatever happens to one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.sweeps import TWELVE, Place, until

pytestmark = pytest.mark.slow


def fitted_by(folder: Path) -> set[str]:
    """Adapters that a trial of this sweep says to have trained."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*/scores.json")]
    return {scores["signature"] for scores in found if not scores["train_reused"]}


def test_each_adapter_is_trained_once(new_place: Callable[..., Place], undisturbed: Undisturbed) -> None:
    place = new_place()
    running = {name: place.start(*TWELVE, f"hydra.sweep.dir={name}") for name in ("left", "right")}
    for name, sweep in running.items():
        done = sweep.wait()
        assert done.code == 0, done.said
        assert place.trials(name) == undisturbed.trials
    left, right = (fitted_by(place.folder / name) for name in running)
    assert left | right == set(undisturbed.weights) and not left & right
    assert place.weights() == undisturbed.weights


def test_when_one_is_killed_the_other_does_its_work(new_place: Callable[..., Place], undisturbed: Undisturbed) -> None:
    """It goes on from the checkpoints of the killed one, and trains no adapter that was complete."""
    place = new_place()
    left = place.start(*TWELVE, "hydra.sweep.dir=left")
    until(lambda: place.products("adapter") or left.process.poll() is not None)
    right = place.start(*TWELVE, "hydra.sweep.dir=right")
    until(lambda: (place.folder / "right" / "packs.log").exists() or right.process.poll() is not None)
    left.kill()
    complete = place.products("adapter")
    done = right.wait()
    assert done.code == 0, done.said
    assert place.trials("right") == undisturbed.trials and place.weights() == undisturbed.weights
    assert {name: place.products("adapter")[name] for name in complete} == complete
    assert place.damaged() == []
