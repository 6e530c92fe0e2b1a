"""kill -9 at random moments: the same command, again, ends with the same results and trains nothing twice.

``KIMI_AUDIO_FT_KILLS=50`` kills fifty times instead of three and writes ``experiments/faults.md``'s lines to the file
that ``KIMI_AUDIO_FT_KILLS_LOG`` names.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.sweeps import TWELVE, Place

KILLS = int(os.environ.get("KIMI_AUDIO_FT_KILLS", "3"))
# Part of an undisturbed sweep's time before which it only imports and composes.
START = 0.25
# A sweep is killed so often in a row at most, then it may end.
IN_A_ROW = 3


def log(line: str) -> None:
    """Keep a line of a long run."""
    place = os.environ.get("KIMI_AUDIO_FT_KILLS_LOG")
    if place:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def state_of(place: Place) -> str:
    """How far a killed sweep had come."""
    scored = len(list((place.folder / "sweep").glob("*/scores.json")))
    drafts = len(list(place.store.glob("*/.*.draft")))
    checkpoints = sum(path.is_dir() for path in place.store.glob("adapter/.*.work"))
    adapters, transcripts = len(place.products("adapter")), len(place.products("transcript"))
    return f"{adapters} | {transcripts} | {scored} | {drafts} | {checkpoints}"


def kill_once(place: Place, moment: float, number: int) -> bool:
    """Start the sweep, kill it at a moment, and see that all which looks whole is whole."""
    before = place.products("adapter"), place.products("transcript")
    killed = place.start(*TWELVE).kill_after(moment)
    after = place.products("adapter"), place.products("transcript")
    for old, new in zip(before, after, strict=True):
        assert {name: new[name] for name in old} == old, "what was complete is neither made again nor gone"
    assert place.damaged() == []
    if killed:
        log(f"| {number} | {moment:.1f} | {state_of(place)} |")
    return killed


def end(place: Place, undisturbed: Undisturbed) -> None:
    """Let the sweep end, and compare it with an undisturbed one."""
    before = place.products("adapter"), place.products("transcript")
    done = place.start(*TWELVE).wait()
    assert done.code == 0, done.said
    assert place.trials() == undisturbed.trials
    assert place.weights() == undisturbed.weights, "bit for bit"
    for old, kind in zip(before, ("adapter", "transcript"), strict=True):
        new = place.products(kind)
        assert {name: new[name] for name in old} == old, "what was complete is not made again"
    assert place.damaged() == place.set_aside() == []
    assert not list(place.store.glob("*/.*.draft")) and not list(place.store.glob("adapter/.*.work")), "no leftovers"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills process groups")
def test_killed_at_random_moments(new_place: Callable[..., Place], undisturbed: Undisturbed) -> None:
    rng, killed, row = random.Random(4), 0, 0
    place = new_place()
    while killed < KILLS:
        # Wherever an undisturbed one may be; what an earlier attempt has made, a later one need not make again.
        moment = undisturbed.seconds * rng.uniform(START, 1.0)
        if kill_once(place, moment, killed + 1):
            killed, row = killed + 1, row + 1
        if row == IN_A_ROW or killed == KILLS:
            end(place, undisturbed)
            place, row = new_place(), 0
