"""Plain lines, the live table, and what else writes to the terminal meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pyte
import pytest
from hydra.core.utils import configure_log
from omegaconf import OmegaConf
from rich.console import Console

from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.sweep.events import Decoding, Failed, Fitting, Ready, Split, Step, Waiting
from kimi_audio_ft.sweep.view.screen import SweepView, quiet_job_console
from kimi_audio_ft.sweep.view.state import JobLine, SweepState

FAILURE = Failure("TrainingFailed", "loss is nan: 学习率过高", user=True)
JOB_LOGGING = {
    "version": 1,
    "formatters": {"simple": {"format": "[%(name)s] %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "simple", "stream": "ext://sys.stdout"}},
    "root": {"level": "INFO", "handlers": ["console"]},
    "disable_existing_loggers": False,
}
SCRIPT = Path(__file__).with_name("a_sweep_on_a_terminal.py")


def plain(jobs: list[JobLine]) -> tuple[SweepView, io.StringIO]:
    file = io.StringIO()
    return SweepView(jobs, Console(file=file, width=80, force_terminal=False)), file


def test_plain_lines_are_few_and_whole(jobs: list[JobLine]) -> None:
    view, file = plain(jobs)
    with view:
        for unit in ("a1", "a2"):
            view.event(Fitting(unit, pack=2))
        for step in range(1, 201):
            for unit, loss in (("a1", 2.0), ("a2", 3.0)):
                view.event(Step(unit, step, 200, loss=loss / step, tokens_per_second=1500.0))
        for done in range(0, 385, 8):
            view.event(Decoding("a1", done, 384))
        view.event(Ready("a1", fitted=True))
        view.event(Failed("a2", FAILURE))
        view.event(Waiting("a3"))
        view.event(Split(["a4", "a5"], "killed by signal 9"))
        view.stopping()
        for number in range(36):
            view.job_done(number, None if 8 <= number < 12 else 0.3, "loss is nan" if 8 <= number < 12 else None)
    lines = file.getvalue().splitlines()
    assert lines[0] == "Sweep: 0 of 36 trials scored, 0 failed; adapters: 8 waiting, 1 stored"
    assert lines[1:3] == [f"trials {name}: fitting in pack 1" for name in ("4-7 (r=8 lr=5e-5)", "8-11 (r=8 lr=1e-4)")]
    assert "trials 4-7 (r=8 lr=5e-5): done" in lines
    assert "trials 8-11 (r=8 lr=1e-4): FAILED: loss is nan: 学习率过高" in lines
    assert "trials 12-15 (r=16 lr=2e-5): in another process" in lines
    assert "2 adapters are tried again in smaller packs: killed by signal 9" in lines
    assert "Ctrl-C: finishing the step, saving; press Ctrl-C again to end at once" in lines
    assert lines[-1].startswith("Sweep: 32 of 36 trials scored, 4 failed; adapters: ")
    packs = [line for line in lines if line.startswith("pack 1: ")]
    assert packs[5].startswith("pack 1: fitting 100/200, loss 0.020 to 0.030, 1,500 tokens/s, ")
    assert len(packs) == 11 and packs[-1].startswith("pack 1: fitted, loss 0.010, ")
    assert len([line for line in lines if "decoding " in line and "/384" in line]) == 11
    assert len(lines) < 45 and "\x1b" not in file.getvalue()


def test_a_failed_trial_is_told_once(jobs: list[JobLine]) -> None:
    view, file = plain(jobs)
    with view:
        view.event(Failed("a1", FAILURE))
        for number in range(4, 8):
            view.job_done(number, None, FAILURE.message)
        view.job_done(8, None, "lora.r=0: the rank must be 1 or more")
        for number in [*range(4), *range(9, 35)]:
            view.job_done(number, 0.3, None)
        view.job_done(35, 0.3, None)
    lines = file.getvalue().splitlines()
    assert lines[-1].startswith("Sweep: 31 of 36 trials scored, 5 failed; adapters: 2 failed")
    told = [line for line in lines if "FAILED" in line]
    assert len(told) == 2
    assert told[1] == "trial 8 (r=8 lr=1e-4 temperature=0.0): FAILED: lora.r=0: the rank must be 1 or more"


def test_a_pack_that_makes_no_progress_is_told_of_again_after_a_while(jobs: list[JobLine], clock: Any) -> None:
    view, file = plain(jobs)
    view.state = SweepState(jobs, clock)
    with view:
        for step in range(1, 10):
            view.event(Step("a1", step, 100, loss=1.0, tokens_per_second=1.0))
            clock.now += 10.0
    told = [line.split(",")[0] for line in file.getvalue().splitlines() if line.startswith("pack")]
    assert told == ["pack None: fitting 1/100", "pack None: fitting 4/100", "pack None: fitting 7/100"]


def test_a_reader_who_has_gone_is_a_request_to_stop(jobs: list[JobLine]) -> None:
    """As when ssh loses its connection: a training that nobody watches saves and ends."""
    script = (
        "import os, sys; from kimi_audio_ft.runtime.signals import StopRequest\n"
        "from kimi_audio_ft.sweep.view.screen import SweepView; from kimi_audio_ft.sweep.view.state import JobLine\n"
        "view = SweepView([JobLine(0, 'r=2', 'a')])\n"
        "with StopRequest(view.stopping) as stop, view:\n"
        "    os.read(0, 1)\n"
        "    for number in range(99): view.say('a line that nobody reads' * number)\n"
        "    sys.exit(3 if stop() else 0)"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        assert "1 trial" in process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        said = process.stderr.read()
    assert process.returncode == 3, said


def test_what_comes_from_outside_is_escaped() -> None:
    view, file = plain([JobLine(0, "prompt=\x1b[2J\nline", "a"), JobLine(1, "r=8", "b")])
    with view:
        view.event(Fitting("a"))
        view.event(Failed("a", Failure("E", "\x1b]0;title\x07\nsecond\x9b1A", user=True)))
        view.event(Split(["b"], "killed\x1bc"))
        view.job_done(1, None, "no\x1b[1A")
        view.say("said \u202e")
    assert [line for line in file.getvalue().split("\n") if "Sweep" not in line] == [
        r"trial 0 (prompt=\x1b[2J\nline): fitting in pack 1",
        r"trial 0 (prompt=\x1b[2J\nline): FAILED: \x1b]0;title\x07",
        r"second\x9b1A",
        r"1 adapters are tried again in smaller packs: killed\x1bc",
        r"trial 1 (r=8): FAILED: no\x1b[1A",
        r"said \u202e",
        "",
    ]


def test_a_given_terminal_shows_the_table(jobs: list[JobLine]) -> None:
    file = io.StringIO()
    with SweepView(
        jobs, Console(file=file, width=80, height=24, force_terminal=True, _environ={"TERM": "xterm"})
    ) as view:
        view.event(Failed("a1", FAILURE))
        view.say("a message")
    screen = pyte.Screen(80, 24)
    pyte.Stream(screen).feed(file.getvalue().replace("\n", "\r\n"))
    lines = [line.rstrip() for line in screen.display if line.strip()]
    assert lines[1:] == ["a message"] and lines[0].startswith("trials 4-7 (r=8 lr=5e-5): FAILED: loss is nan")


@pytest.fixture
def root_logger() -> Any:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_jobs_console_passes_what_the_view_does_not_show(
    root_logger: logging.Logger, jobs: list[JobLine], capsys: pytest.CaptureFixture[str]
) -> None:
    def speak() -> list[str]:
        configure_log(OmegaConf.create(JOB_LOGGING))
        quiet_job_console()
        log = logging.getLogger("trial")
        log.info("adapter fitted")
        log.warning("no network")
        log.error("FAILED: a rule")
        try:
            raise ZeroDivisionError("a bug")
        except ZeroDivisionError:
            log.exception("FAILED")
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("[trial]")]

    with plain(jobs)[0]:
        assert speak() == ["[trial] no network", "[trial] FAILED"]
    assert speak() == ["[trial] adapter fitted", "[trial] no network", "[trial] FAILED: a rule", "[trial] FAILED"]


def on_a_terminal(script: Path) -> bytes:
    """All that a script writes to an 80 x 24 terminal."""
    reading, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}
    ends = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    with subprocess.Popen([sys.executable, str(script)], env=environment, **ends) as process:
        os.close(terminal)
        written = b""
        with contextlib.suppress(OSError):  # the process has closed the other side
            while some := os.read(reading, 65536):
                written += some
        os.close(reading)
    assert process.returncode == 0, written.decode(errors="replace")
    return written


def test_nothing_tears_the_table_and_nothing_is_lost() -> None:
    """Handlers old and new, warnings and prints come out whole, in order, above the table; escapes are shown."""
    written = on_a_terminal(SCRIPT)
    screen = pyte.Screen(80, 40)
    pyte.ByteStream(screen).feed(written)
    escapes = r"\x1b]0;title\x07\x1b[2J\x1bc\x9b1A\x9b2K"
    assert [line.rstrip() for line in screen.display if line.strip()] == [
        "OLD old handler",
        "printed [/b]",
        "warning: warned",
        "NEW new handler",
        "in two lines",
        "OLD old handler again",
        f"NEW log {escapes}",
        f"trial 1 (r=16): FAILED: message {escapes}",
        "long" + 15 * " word",
        14 * "word " + "word",
        "no newline [/b]",
        "AFTER",
        "NEW after the view",
    ]
    assert "fitting 1/8" in written.decode() and f"学{escapes}"[:20] in written.decode()
