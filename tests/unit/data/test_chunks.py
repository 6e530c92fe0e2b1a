"""Files in pieces, and work shared over processes: nothing lost, in order, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.manifest import index
from kimi_audio_ft.manifest.index import chunks_of, lines_of, over_cores


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("content", [b"", b"\n", b"one\n\ntwo\r\nthree" + b"x" * 90, b"a\n" * 50])
def test_chunks_hold_every_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, content: bytes
) -> None:
    monkeypatch.setattr(index, "_CHUNK_BYTES", size)
    path = tmp_path / "lines"
    path.write_bytes(content)
    pieces = chunks_of(path)
    lines = [line for piece in pieces for line in lines_of(path, piece)]
    assert b"".join(raw for _, _, raw in lines) == content
    assert [number for number, _, _ in lines] == list(range(1, len(lines) + 1))
    assert all(content[place : place + len(raw)] == raw for _, place, raw in lines)
    assert len(pieces) >= min(len(lines), len(content) // 200)


def where(item: int) -> tuple[int, int]:
    return item * item, os.getpid()


def test_results_come_in_order_from_every_process() -> None:
    results = list(over_cores(where, range(100)))
    assert [square for square, _ in results] == [item * item for item in range(100)]
    cores = min(len(os.sched_getaffinity(0)), 8)
    processes = {process for _, process in results}
    assert len(processes) == cores and (cores == 1 or os.getpid() not in processes)
    assert {process for _, process in over_cores(where, range(3))} == {os.getpid()}  # not worth a process


def test_the_first_error_is_raised() -> None:
    def work(item: int) -> int:
        if item in (21, 22, 40):
            raise DataError("m.jsonl", "is bad", line=item)
        return item

    seen = []
    with pytest.raises(DataError, match=r"^m\.jsonl:21: is bad$"):
        for result in over_cores(work, range(64)):
            seen.append(result)
    assert seen == list(range(21))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="one core: no other process")
def test_a_killed_process_is_reported() -> None:
    def work(item: int) -> int:
        if item == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(RuntimeError, match="was killed; is there memory left"):
        list(over_cores(work, range(64)))


def test_no_process_outlives_a_killed_caller() -> None:
    """Every process holds the pipe of the caller's output: it ends when the last of them has."""
    code = (
        "from kimi_audio_ft.manifest.index import over_cores\n"
        "for number, _ in enumerate(over_cores(lambda item: bytes(1 << 16), range(10**6))):\n"
        "    if number == 20: print('running', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None and caller.stdout.readline() == "running\n"
        caller.kill()
        caller.communicate(timeout=60)
    assert caller.returncode == -signal.SIGKILL
