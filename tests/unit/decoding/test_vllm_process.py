"""vLLM's process: how it is started, fed and stopped, and what is said of its death; real processes, but no vLLM."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import DecodingConfig, VllmConfig
from kimi_audio_ft.decoding.vllm_process import VllmProcess, require_vllm
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.runtime.signals import Interrupted

MakePython = Callable[[str], str]
READY = "say({'ready': {'vllm': '0', 'pid': str(os.getpid())}})\n"


@pytest.fixture
def make_python(tmp_path: Path) -> MakePython:
    """A program to name as ``decoding.vllm.python``; ``say`` and ``hear`` are its ends of the protocol."""

    def make(code: str) -> str:
        path = tmp_path / "python of vllm"
        head = "import json, os, sys, time\n"
        head += "def say(message): print(json.dumps(message), flush=True)\n"
        head += "def hear(): return json.loads(sys.stdin.readline())\n"
        path.write_text(f"#!{sys.executable} -SsE\n{head}{code}")
        path.chmod(0o755)
        return str(path)

    return make


def never() -> bool:
    return False


def has_ended(pid: str) -> bool:
    """Whether a process has ended or does so within a minute; one that is killed takes a moment to."""
    try:
        process = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 60)[0])
    finally:
        os.close(process)


def test_orders_and_answers(make_python: MakePython) -> None:
    code = f"first = hear()\n{READY}say({{'given': first, 'arguments': sys.argv[1:]}})\nsay(hear())\nhear()"
    with VllmProcess(make_python(code), {"model": "模型"}, never) as process:
        found = process.receive(never)
        assert found["given"] == {"start": {"model": "模型"}} and found["arguments"][0] == "-I"
        assert Path(found["arguments"][1]).name == "vllm_child.py"
        process.send({"rows": [1]})
        assert process.receive(never) == {"rows": [1]}
    assert has_ended(process.versions["pid"])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('CUDA error: no GPU')", r"ended \(exit code 1\) while it was starting.*\n  CUDA error: no GPU$"),
        ("print('Welcome!', flush=True)", r"vLLM sent a line that is not a JSON object \(b'Welcome!\\n'\).* nothing$"),
        (
            f"{READY}hear()\nprint('out of\\x1b memory', file=sys.stderr)\nos.kill(os.getpid(), 9)",
            r"ended \(signal SIGKILL\) while it was decoding.*\n  out of\\x1b memory$",
        ),
        (f"{READY}say({{'error': 'ValueError: too long'}})", r"failed while it was decoding \(ValueError: too long\)"),
        (
            "say({'error': \"ModuleNotFoundError: No module named 'vllm'\"})",
            r"decoding.vllm.python='.*python of vllm': vLLM cannot be imported there.*docs/recogniser.md",
        ),
    ],
)
def test_its_death_is_told_with_the_end_of_its_log(make_python: MakePython, code: str, said: str) -> None:
    with pytest.raises(UserError, match=f"(?s){said}"), VllmProcess(make_python(code), {}, never) as process:
        process.receive(never)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    for path, said in ((tmp_path / "text", "Exec format error"), (tmp_path / "none", "No such file")):
        expected = rf"decoding.vllm.python='{path}': cannot be started \({said}"
        with pytest.raises(ConfigError, match=expected), VllmProcess(str(path), {}, never):
            pass


@pytest.mark.parametrize("when", ["starting", "decoding"])
def test_it_is_stopped_with_all_its_processes(make_python: MakePython, tmp_path: Path, when: str) -> None:
    """Nothing of it may stay, for it may hold a GPU: no process of its own, nor one that does not listen."""
    pids, seen = tmp_path / "pids", list[bool]()
    code = f"child = os.fork()\nopen({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
    code += "if not child: time.sleep(1000)\n"
    code += f"{READY}hear()\nhear()" if when == "decoding" else "time.sleep(1000)"

    def both_run() -> bool:
        seen.append(pids.is_file() and pids.read_text().count("\n") == 2)
        return seen[-1]

    first = both_run if when == "starting" else never
    with pytest.raises(Interrupted), VllmProcess(make_python(code), {}, first) as process:
        process.receive(both_run)
    assert seen[-1] and all(map(has_ended, pids.read_text().split()))


def test_whether_a_python_has_vllm_is_asked_before_it_is_needed(make_python: MakePython, tmp_path: Path) -> None:
    def setting(python: str) -> DecodingConfig:
        return DecodingConfig(engine="vllm", vllm=VllmConfig(python))

    for python, said in (
        (sys.executable, r"is no Python that has vLLM \(exit code 1\)"),
        (str(tmp_path / "none"), r"cannot be started \(No such file"),
        ("/bin/sh", r"is no Python that has vLLM"),
    ):
        with pytest.raises(ConfigError, match=rf"^decoding\.vllm\.python='{python}': {said}.*docs/recogniser\.md"):
            require_vllm(setting(python))
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise AssertionError('importing it takes long')")
    require_vllm(setting(make_python(f"sys.path.insert(0, {str(tmp_path)!r})\nexec(sys.argv[3])")))
    require_vllm(DecodingConfig(vllm=VllmConfig("none")))


# Hangs while it starts, with a process of its own; both hold the FIFO open until they end.
HANGING = """
import os, threading
class EngineArgs:
    def __init__(self, **given): self.fifo = given["fifo"]
class LLMEngine:
    def from_engine_args(given):
        held = os.open(given.fifo, os.O_WRONLY)
        if os.fork():
            os.write(held, f"{os.getpid()}\\n".encode())
        threading.Event().wait()
"""
PARENT = """
import sys
from kimi_audio_ft.decoding.vllm_process import VllmProcess
with VllmProcess(sys.argv[1], {"fifo": sys.argv[2]}, lambda: False): pass
"""


def test_a_killed_parent_ends_it_with_all_its_processes(make_python: MakePython, tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text(HANGING)
    (tmp_path / "torch.py").write_text("class cuda: is_available = lambda: False")
    code = f"import runpy\nsys.path.insert(0, {str(tmp_path)!r})\ntime.sleep = lambda seconds: None  # of grace\n"
    python, fifo = make_python(f"{code}runpy.run_path(sys.argv[2], run_name='__main__')"), tmp_path / "fifo"
    os.mkfifo(fifo)
    held, group = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), 0

    def read() -> bytes:
        assert select.select([held], [], [], 60)[0], "neither a word nor an end"
        return os.read(held, 100)

    parent = subprocess.Popen([sys.executable, "-c", PARENT, python, str(fifo)])
    try:
        group = int(read())
        parent.kill()
        assert read() == b"", "every process of it has ended"
    finally:
        parent.kill()
        parent.wait()
        os.close(held)
        with suppress(ProcessLookupError):
            if group:
                os.killpg(group, signal.SIGKILL)
