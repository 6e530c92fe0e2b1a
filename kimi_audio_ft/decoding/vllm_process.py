"""vLLM as a process of another environment: started, fed and stopped from here (``vllm_child.py`` has the protocol)."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, Self

from kimi_audio_ft.config.train import VLLM, DecodingConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.runtime.signals import Interrupted

_PROGRAM = Path(__file__).with_name("vllm_child.py")
_OPTION = "decoding.vllm.python"
_REMEDY = "Make an environment (docs/recogniser.md, Decoding by vLLM), and give its bin/python"
# Ends with 0 if there is a vLLM; importing it would take many seconds.
_ASK = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
_SLOWEST = 60.0
# Seconds between two looks at whether it is to stop, and that it has to end by itself.
_PATIENCE, _GRACE = 0.2, 10.0
_STARTING, _DECODING = "starting", "decoding"
_LINES = 25  # of its log, in an error
# Where the user has not said otherwise: one process (each would have to be ended), no report to its makers, and 1 GiB
# for keys and values on a CPU.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def require_vllm(setting: DecodingConfig) -> None:
    """Raise a ConfigError if a setting needs vLLM and its Python has none: before what is to be decoded is made."""
    python = setting.vllm.python
    if setting.engine == VLLM and (problem := _problem(str(python))) is not None:
        raise ConfigError(_OPTION, python, problem, _REMEDY)


@lru_cache
def _problem(python: str) -> str | None:
    """Why a program cannot run vLLM, or None; asked once, as trials of a sweep have one and the same."""
    try:
        asked = [python, "-I", "-c", _ASK]
        code = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SLOWEST).returncode
    except OSError as error:
        return _not_started(error)
    except subprocess.TimeoutExpired:
        return f"has not answered for {_SLOWEST:g} s"
    return f"is no Python that has vLLM ({_how(code)})" if code else None


def _not_started(error: OSError) -> str:
    return f"cannot be started ({error.strerror})"


class VllmProcess:
    """vLLM's engine; ends with the context.

    versions: of its packages, and its device.

    Args:
        python: of its environment. arguments: of the engine.
        should_stop: asked while it is waited for; Interrupted is raised then.
        on_cpu: it is to see no GPU.
    """

    def __init__(
        self, python: str, arguments: Mapping[str, Any], should_stop: Callable[[], bool], on_cpu: bool = False
    ) -> None:
        self.versions: dict[str, str] = {}
        self._hidden = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
        self._python, self._arguments, self._should_stop = python, arguments, should_stop
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._doing = _STARTING

    def __enter__(self) -> Self:
        with ExitStack() as started:
            # A file, for nobody would read a pipe while vLLM computes.
            self._log = started.enter_context(tempfile.TemporaryFile(prefix="vllm-log-"))
            self._process = self._started()
            self._listener = Thread(target=self._listen, daemon=True)
            self._listener.start()
            started.callback(self._end)
            self.send({"start": dict(self._arguments)})
            self.versions = self.receive(self._should_stop)["ready"]
            self._doing = _DECODING
            self._held = started.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def send(self, order: Mapping[str, Any]) -> None:
        """Give it an order; one that has died is an error of ``receive``."""
        assert self._process.stdin is not None, "it is a pipe"
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{json.dumps(order)}\n".encode())
            self._process.stdin.flush()

    def receive(self, should_stop: Callable[[], bool]) -> dict[str, Any]:
        """Its next answer.

        Raises:
            UserError: it has died, or said what went wrong.
            Interrupted: on ``should_stop``.
        """
        while not should_stop():
            with suppress(queue.Empty):
                return self._read(self._lines.get(timeout=_PATIENCE))
        raise Interrupted(0)

    def _started(self) -> subprocess.Popen[bytes]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(
                # Isolated: neither our packages nor the modules beside the program are in its way.
                [self._python, "-I", str(_PROGRAM)],
                env={**_ENVIRONMENT, **given, **self._hidden},
                stdin=pipe,
                stdout=pipe,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is ours to answer
            )
        except OSError as error:
            raise ConfigError(_OPTION, self._python, _not_started(error), _REMEDY) from None

    def _listen(self) -> None:
        assert self._process.stdout is not None, "it is a pipe"
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _read(self, line: bytes) -> dict[str, Any]:
        if not line:
            raise self._death(f"ended ({_how(self._process.wait())}) while it was {self._doing}")
        try:
            answer = dict(json.loads(line))
        except (ValueError, TypeError):
            raise self._death(f"sent a line that is not a JSON object ({line[:80]!r})") from None
        if "error" not in answer:
            return answer
        said = str(answer["error"])
        if said.startswith(("ModuleNotFoundError", "ImportError")):
            remedy = "See docs/recogniser.md, Decoding by vLLM"
            raise ConfigError(_OPTION, self._python, f"vLLM cannot be imported there ({said})", remedy)
        raise self._death(f"failed while it was {self._doing} ({said})")

    def _death(self, what: str) -> UserError:
        self._log.seek(0)
        tail = self._log.read().decode(errors="replace").splitlines()[-_LINES:]
        shown = "".join(f"\n  {line}" for line in tail) or " nothing"
        return UserError(f"decoding.engine=vllm: vLLM {what}. The end of what it printed:{shown}")

    def _end(self) -> None:
        """End it and all its processes."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None, "they are pipes"
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE if self._doing == _DECODING else 0)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._listener.join()
        process.stdout.close()


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
