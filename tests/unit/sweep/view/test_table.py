"""The live table fits every screen and shows what matters."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.sweep.events import Failed, Fitting
from kimi_audio_ft.sweep.view.state import JobLine, SweepState
from kimi_audio_ft.sweep.view.table import STOPPING, render

Tell = Callable[..., None]


def drawn(state: SweepState, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, record=True, file=io.StringIO())
    console.print(render(state, width, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture
def busy(state: SweepState, tell: Tell, clock: Any) -> SweepState:
    """A sweep with a pack of three at work, one of which has failed and one of which decodes."""
    for unit in ("a1", "a2", "a3"):
        tell("fitting", unit, pack=3)
    for step in range(1, 13):
        clock.now += 1
        for unit in ("a1", "a2", "a3"):
            tell("step", unit, step=step, steps=216, loss=0.5, tokens_per_second=1234.0)
    message = "optim.lr=0.0001: 学习率过高，损失不是有限的数字，这一次训练只能停下来 and a long story besides"
    tell("failed", "a3", error_type="TrainingFailed", message=message, user=True, traceback="")
    tell("decoding", "a1", done=12, total=384)
    state.finish_job(0, 0.2512, None, reused=True)
    return state


def test_every_trial_has_a_line_when_there_is_room(busy: SweepState) -> None:
    lines = drawn(busy, 100, 50)
    assert lines[0] == "Sweep: 36 trials, 9 adapters, 1 done, 4 failed"
    for number in range(36):
        assert any(line.split()[:1] == [str(number)] for line in lines), number
    by_number = {line.split()[0]: line for line in lines if line.split()}
    assert by_number["0"].split() == ["0", "r=8", "lr=2e-5", "temperature=0.0", "done,", "reused", "25.12"]
    assert "decoding 12/384" in by_number["4"]
    assert "fitting 12/216" in by_number["8"] and "0.500" in by_number["8"]
    assert "failed: optim.lr=0.0001: 学习率" in by_number["12"]
    assert "waiting" in by_number["16"]
    assert lines[-1] == "1,234 tokens/s, 12 s so far, about 7 min 08 s of training left"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("height", [8, 24, 60])
def test_no_line_is_too_long_and_there_are_not_too_many(busy: SweepState, width: int, height: int) -> None:
    lines = drawn(busy, width, height)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= max(height - 1, 10)


def test_trials_of_an_adapter_share_a_line_on_a_small_screen(busy: SweepState) -> None:
    lines = drawn(busy)
    assert any(line.split()[:4] == ["4-7", "r=8", "lr=5e-5", "×4"] and "decoding" in line for line in lines)
    assert any(line.split()[:1] == ["12-15"] and "failed" in line for line in lines)


def test_what_has_no_line_is_counted(clock: Any) -> None:
    state = SweepState([JobLine(n, f"r={n}", f"a{n}") for n in range(1000)], clock)
    state.apply(Fitting("a700"))
    state.apply(Failed("a900", Failure("E", "no", user=True)))
    state.finish_job(3, 0.1, None, reused=False)
    lines = drawn(state)
    text = "\n".join(lines)
    assert "r=700" in text and "r=900" in text and "r=0 " in text
    assert "… 1 done, 982 waiting" in lines
    assert len(lines) < 24


def test_stopping_is_said_in_the_table(busy: SweepState) -> None:
    busy.stopping = True
    assert drawn(busy)[-1] == STOPPING


def test_names_with_brackets_are_text(clock: Any) -> None:
    state = SweepState([JobLine(0, "tags=[red] prompt=请[b]转写", "a")], clock)
    assert "tags=[red] prompt=请[b]转写" in "\n".join(drawn(state))
