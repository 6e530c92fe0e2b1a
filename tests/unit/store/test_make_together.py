"""Products that are made together: each is whole or absent, made once, and no lock outlives a failure."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from kimi_audio_ft import store
from kimi_audio_ft.runtime.signals import Interrupted, StopRequest
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.store.make import META, find_or_make_all
from tests.unit.store.small_products import told_to_go_on

KIND = "transcript"
NAMES = ["tc", "ta", "tb"]


def make(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    for name, folder in folders.items():
        (folder / "text").write_text(name, encoding="utf-8")
    return {name: {"made_with": sorted(folders)} for name in folders}


def test_what_is_missing_is_made_in_one_go() -> None:
    store.find_or_make(KIND, "tb", lambda folder: {"made_with": []})
    found = find_or_make_all(KIND, NAMES, make)
    assert list(found) == NAMES and all(path == store.find(KIND, name) for name, path in found.items())
    assert [store.read_meta(found[name])["made_with"] for name in NAMES] == [["ta", "tc"], ["ta", "tc"], []]
    assert (found["ta"] / "text").read_text(encoding="utf-8") == "ta"
    assert find_or_make_all(KIND, NAMES, lambda folders: pytest.fail("nothing is missing")) == found


def test_the_same_name_twice_and_none_at_all() -> None:
    assert list(find_or_make_all(KIND, ["ta", "ta"], make)) == ["ta"]
    assert find_or_make_all(KIND, [], make) == {}


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_failed_making_leaves_nothing_and_no_lock(private_store: Path, error: BaseException) -> None:
    def fail(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        make(folders)
        raise error

    with pytest.raises(type(error)) as raised:
        find_or_make_all(KIND, NAMES, fail)
    assert raised.value is error
    assert [path for path in (private_store / KIND).rglob("*") if path.suffix != ".lock"] == []
    for name in NAMES:
        with store.lock(KIND, name, timeout=0):
            pass
    assert len(find_or_make_all(KIND, NAMES, make)) == 3


def test_locks_are_held_while_making_and_many_are_made_in_parts(
    private_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kimi_audio_ft.store.make.AT_ONCE", 2)
    parts: list[list[str]] = []

    def locked(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        parts.append(list(folders))
        for name in NAMES:
            held = FileLock(private_store / KIND / f".{name}.lock", timeout=0)
            if name in folders:
                with pytest.raises(Timeout):
                    held.acquire()
        return make(folders)

    find_or_make_all(KIND, NAMES, locked)
    assert parts == [["ta", "tb"], ["tc"]]


def test_a_lock_whose_file_is_removed_while_it_is_waited_for_is_made_again(
    private_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two processes would hold it: one by the file that is gone, one by its successor."""
    file, flock, removed = private_store / KIND / ".ta.lock", fcntl.flock, []

    def removed_first(descriptor: int, operation: int) -> None:
        if not removed:
            file.unlink()
            removed.append(file)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with store.lock(KIND, "ta"):
        assert removed and file.exists()
        with pytest.raises(Timeout), store.lock(KIND, "ta", timeout=0):
            pass


def test_waiting_for_another_process_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said, held = [], ExitStack()
    held.enter_context(store.lock(KIND, "ta"))

    def let_go(message: str, *of: str) -> None:
        said.append(message % of)
        held.close()

    monkeypatch.setattr("kimi_audio_ft.store.make.log.info", let_go)
    assert len(find_or_make_all(KIND, NAMES, make)) == 3
    assert said == ["waiting for another process, which is making transcript ta"]


def test_a_stop_is_heard_while_another_process_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for when the waiting has begun; the lock is free then too, so that nobody waits for ever."""
    held = ExitStack()
    held.enter_context(store.lock(KIND, "ta"))
    monkeypatch.setattr("kimi_audio_ft.store.make.log.info", lambda *_: signal.raise_signal(signal.SIGTERM))
    with StopRequest(held.close), pytest.raises(Interrupted):
        find_or_make_all(KIND, NAMES, make)
    assert not any(store.find(KIND, name) for name in NAMES)


ASK = """
import os, signal, sys
from kimi_audio_ft.store.make import META, find_or_make_all

def make(folders):
    print("making", *folders, flush=True)
    if sys.argv[1] == "die":
        next(iter(folders.values())).joinpath("half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.readline()
    return {name: {} for name in folders}

print("asking", flush=True)
print("found", *find_or_make_all("transcript", sys.argv[2:], make), flush=True)
"""


def test_a_killed_maker_leaves_no_product_and_no_lock(private_store: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", ASK, "die", *NAMES], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL and listing() == []
    assert (private_store / KIND / ".ta.draft" / "half").is_file(), "it really was killed half-way"
    found = find_or_make_all(KIND, NAMES, make)
    assert {path.name for path in found["ta"].iterdir()} == {"text", META}


def test_processes_that_ask_for_some_of_the_same_make_each_once() -> None:
    asked = [["ta", "tb", "tc"], ["tc", "tb"], ["tb", "td", "ta"]]
    outputs = told_to_go_on([[ASK, "live", *names] for names in asked])
    assert [lines[-1].split()[1:] for lines in outputs] == asked
    made = [name for lines in outputs for line in lines[:-1] for name in line.split()[1:]]
    assert sorted(made) == ["ta", "tb", "tc", "td"]
