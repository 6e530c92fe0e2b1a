"""kill -9 at random moments: the same command, again, ends with the same results and trains nothing twice.

``KIMI_AUDIO_FT_KILLS=50`` kills a sweep of twice the size fifty times instead of once, at other moments with another
``KIMI_AUDIO_FT_KILLS_SEED``, and writes the lines of ``experiments/faults.md`` to the file that
``KIMI_AUDIO_FT_KILLS_LOG`` names.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.sweeps import SWEPT, Place, Running, until
from tests.sameness import assert_same_adapters, assert_same_results

KILLS = int(os.environ.get("KIMI_AUDIO_FT_KILLS", "1"))
WHOM = ("all", "parent", "worker")
SEED = int(os.environ.get("KIMI_AUDIO_FT_KILLS_SEED", "4"))
# Part of an undisturbed sweep's work before which it only composes.
START = 0.2
# A sweep is killed so often in a row at most, then it may end.
IN_A_ROW = 8


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


def strike(running: Running, whom: str) -> bool:
    """Kill -9 the whole group, the command's process alone, or one of its workers; returns whether it is the end."""
    if whom == "all":
        running.kill()
    elif whom == "parent":
        running.kill_alone()
    else:
        for worker in running.children()[:1]:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    return whom != "worker"


def attempt(place: Place, undisturbed: Undisturbed, moment: float | None, whom: str = "all") -> bool:
    """Start the sweep and kill somebody at a moment (seconds of the processors), or let it end; see that what looks
    whole is.

    Returns:
        Whether that ended it; a sweep that ended by itself is compared with an undisturbed one.
    """
    before = {kind: place.products(kind) for kind in ("adapter", "transcript")}
    running = place.start(*SWEPT)
    killed = moment is not None and running.used(moment) and strike(running, whom)
    if not killed:
        done = running.wait()
        assert done.code == 0, done.said
        assert_same_results(place.trials(), undisturbed.trials)
        assert_same_adapters(place.store, undisturbed.place.store)
        left = [*place.store.glob("*/.*.draft"), *place.store.glob("adapter/.*.work")]
        assert left == [], "leftovers"
    for kind, old in before.items():
        new = place.products(kind)
        assert {name: new[name] for name in old} == old, "what was complete is neither made again nor gone"
    assert place.damaged() == place.set_aside() == []
    return killed


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills process groups")
@pytest.mark.parametrize("whom", WHOM)
def test_killed_at_random_moments(new_place: Callable[..., Place], undisturbed: Undisturbed, whom: str) -> None:
    """All processes; the command alone, whose workers save and end while the next attempt begins; one worker alone."""
    rng, kills = random.Random(f"{SEED} {whom}"), 0
    log(f"{whom}, undisturbed: {undisturbed.seconds:.1f} s of the processors")
    while kills < KILLS:
        place, row = new_place(), 0
        while kills < KILLS and row < IN_A_ROW:
            # Wherever an undisturbed one may be; a later attempt has less to do, and may end before.
            moment = undisturbed.seconds * rng.uniform(START, 1.0)
            killed = attempt(place, undisturbed, moment, whom)
            if killed or whom == "worker":
                kills, row = kills + 1, row + 1
                log(f"| {kills} | {moment:.1f} | {state_of(place)} |")
            if not killed:
                break
        else:
            attempt(place, undisturbed, None)
        log(f"| | | the same results after {row} kills in a row |")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are spawned elsewhere")
def test_a_sweep_whose_terminal_closes_saves_and_is_resumed(new_place: Callable[..., Place]) -> None:
    """As by ssh that is cut off: SIGHUP reaches all of its processes, also the one that workers are forked from."""
    place, side_by_side = new_place(), ("hydra.launcher.pack_size=1", "hydra.launcher.parallel=2")
    swept = ("lora.r=2,4", "trainer.max_steps=400", "trainer.max_epochs=500", *side_by_side)
    running = place.start_python(*swept)
    saved = partial(place.store.glob, "adapter/.*.work/*")
    until(lambda: len({path.parent for path in saved()}) > 1 or running.ended() is not None)
    workers = running.children()
    assert len(workers) == 2 and running.group not in [parent_of(number) for number in workers]
    os.killpg(running.group, signal.SIGHUP)
    until(lambda: running.ended() is not None and not running.members())
    done = running.wait()
    assert done.code == 130 and "Traceback" not in done.said and "Resume with:" in done.said, done.said
    stopped = {event["unit"]: event["step"] for event in events(place, "001") if event["event"] == "interrupted"}
    assert len(stopped) == 2 and all(0 < step < 400 for step in stopped.values())
    again = place.start(*swept)
    until(lambda: steps(place, "002").keys() == stopped.keys() or again.ended() is not None)
    again.kill()
    resumed = steps(place, "002")
    assert len(resumed) == 2 and all(min(resumed[unit]) > step for unit, step in stopped.items()), "none again"


def steps(place: Place, run: str) -> dict[str, list[int]]:
    """The steps that the workers of a run of the sweep have told, by unit."""
    found: dict[str, list[int]] = {}
    for event in events(place, run):
        if event["event"] == "step":
            found.setdefault(event["unit"], []).append(event["step"])
    return found


def events(place: Place, run: str) -> list[dict[str, Any]]:
    """What the workers of a run of the sweep have told."""
    files = place.folder.glob(f"sweep/packs/{run}/*.events.jsonl")
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]  # not what is being written


def parent_of(number: int) -> int:
    """The process that a process was forked by."""
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
