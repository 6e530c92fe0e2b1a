"""Several processes as one call: messages, failures, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.runtime.workers import WorkerDied, run_workers

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[3]

# Tasks stand in a module that a spawned process can import by name; test modules have none under importlib mode.
TASKS = """
import os, signal, sys, time
from kimi_audio_ft.errors import ConfigError

def greet(rank, send, word):
    for number in range(3):
        send([word, number, os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]])

def add(rank, send):
    import socket, torch, torch.distributed as dist
    with socket.socket() as other:
        # The parent has the port already: no other program can take it while workers are being started.
        assert other.connect_ex(("127.0.0.1", int(os.environ["MASTER_PORT"]))) == 0
    dist.init_process_group("gloo")
    number = torch.tensor([rank + 1.0])
    dist.all_reduce(number)
    send(number.item())
    dist.destroy_process_group()

def fail_in_one(rank, send, how, folder):
    # Written and not sent: a process that is killed at once may take its message with it.
    with open(f"{folder}/{rank}", "w") as file:
        file.write(str(os.getpid()))
    # Each waits here for the other one, so that neither fails before both are there.
    with open(f"{folder}/both", "w" if rank else "r"):
        pass
    if rank == 1:
        if how == "user":
            raise ConfigError("lora.r", 0, "must be 1 or more")
        if how == "memory":
            raise RuntimeError("CUDA error: out of memory")
        if how == "bug":
            raise KeyError("lost")
        if how == "exit":
            sys.exit(7)
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()

def wait(rank, send):
    send(os.getpid())
    signal.pause()
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import importlib

    (tmp_path / "worker_tasks.py").write_text(textwrap.dedent(TASKS), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("worker_tasks", None)
    return importlib.import_module("worker_tasks")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\tZ" not in f"\t{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].strip()}"


def test_messages_arrive_in_each_workers_order(tasks: Any) -> None:
    seen: dict[int, list[Any]] = {0: [], 1: []}
    run_workers(tasks.greet, ("hello",), 2, lambda rank, value: seen[rank].append(value))
    for rank in (0, 1):
        assert seen[rank] == [["hello", number, str(rank), str(rank), "2"] for number in range(3)]


def test_they_find_each_other(tasks: Any) -> None:
    sums: list[float] = []
    run_workers(tasks.add, (), 2, lambda rank, value: sums.append(value))
    assert sums == [3.0, 3.0]


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("user", ConfigError, "lora.r=0: must be 1 or more"),
        ("memory", MemoryError, "CUDA error: out of memory"),
        ("bug", WorkerDied, "worker 1 of 2 died"),
        ("exit", WorkerDied, "worker 1 of 2 died"),
        ("kill", WorkerDied, "SIGKILL"),
    ],
)
def test_one_failure_ends_all(tasks: Any, how: str, kind: type[Exception], words: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "both")
    with pytest.raises(kind, match=words) as raised:
        run_workers(tasks.fail_in_one, (how, str(tmp_path)), 2)
    assert isinstance(raised.value, UserError) == (how == "user")
    pids = [int((tmp_path / str(rank)).read_text(encoding="utf-8")) for rank in (0, 1)]
    assert not any(alive(pid) for pid in pids)


def test_workers_end_with_their_parent(tasks: Any, tmp_path: Path) -> None:
    script = (
        "from kimi_audio_ft.runtime.workers import run_workers; import worker_tasks\n"
        "if __name__ == '__main__':\n"
        "    run_workers(worker_tasks.wait, (), 2, lambda rank, pid: print(pid, flush=True))\n"
    )
    (tmp_path / "parent.py").write_text(script, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    handles = [os.pidfd_open(pid) for pid in pids]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    import select

    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)  # readable once the process has ended
        assert poll.poll(300_000), "a worker outlived its parent"
        os.close(handle)


def test_ctrl_c_while_a_worker_starts_prints_no_traceback(tasks: Any, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, worker_tasks\n"
        "from kimi_audio_ft.runtime.workers import WorkerDied, run_workers\n"
        "if __name__ == '__mp_main__':  # a worker, which reads this file before it hears of its task\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        run_workers(worker_tasks.wait, (), 1)\n"
        "    except WorkerDied as error:\n"
        "        sys.exit(f'{error}; {signal.pthread_sigmask(signal.SIG_BLOCK, [])}')\n"
    )
    (tmp_path / "parent.py").write_text(script, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    parent = subprocess.run(
        [sys.executable, str(tmp_path / "parent.py")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert parent.stderr.strip().startswith("worker 0 of 1 died: ") and "Traceback" not in parent.stderr, parent.stderr
    assert parent.stderr.strip().endswith("; set()")  # this process hears Ctrl-C again
