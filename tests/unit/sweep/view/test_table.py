"""The live table fits every screen and shows what matters."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from kimi_audio_ft.config.train import RATES
from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.scoring.ranking import RATE_HEADINGS
from kimi_audio_ft.sweep.events import Failed, Fitting
from kimi_audio_ft.sweep.view.screen import table
from kimi_audio_ft.sweep.view.state import JobLine, SweepState

Tell = Callable[..., None]


def drawn(state: SweepState, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, record=True, file=io.StringIO())
    console.print(table(state, console), soft_wrap=True)  # as a message above the table is printed
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
    state.finish_job(0, 0.26, None)
    state.finish_job(1, 0.2512, None)
    return state


def test_every_adapter_has_a_line(busy: SweepState) -> None:
    lines = drawn(busy)
    title = "Sweep: 2 of 36 trials scored, 4 failed; adapters: 1 fitting, 1 decoding, 1 failed, 5 waiting, 1 stored"
    assert " ".join(lines[:2]) == title
    assert [line.split() for line in lines[4:8]] == [
        ["0-3", "r=8", "lr=2e-5", "stored", "25.12"],
        ["4-7", "r=8", "lr=5e-5", "1", "decoding", "12/384", "0.500"],
        ["8-11", "r=8", "lr=1e-4", "1", "fitting", "12/216", "0.500"],
        ["12-15", "r=16", "lr=2e-5", "1", "failed:", "optim.lr=0.0001:", "学习率过高，…", "0.500"],
    ]
    assert lines[8].split() == ["16-19", "r=16", "lr=5e-5", "waiting"]
    assert lines[13:] == ["1,234 tokens/s, 12 s so far, about 7 min 08 s of fitting left"]


@pytest.mark.parametrize("rank_by", RATES)
def test_the_rate_that_ranks_is_shown_by_its_name(rank_by: str) -> None:
    lines = drawn(SweepState([JobLine(0, "r=8", "a1")], rank_by=rank_by))
    assert "  ".join(lines).count(RATE_HEADINGS[rank_by]) == 1


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("height", [14, 24, 60])
def test_the_table_fits_the_screen(busy: SweepState, width: int, height: int) -> None:
    lines = drawn(busy, width, height)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) < height
    assert any("decoding" in line for line in lines) and any("failed:" in line for line in lines)


def test_what_is_at_work_or_has_failed_is_shown_first(clock: Any) -> None:
    state = SweepState([JobLine(n, f"r={n}", f"a{n}") for n in range(1000)], clock)
    state.apply(Fitting("a700"))
    state.apply(Failed("a900", Failure("E", "no", user=True)))
    lines = drawn(state)
    assert len(lines) < 24 and len([line for line in lines if "waiting" in line]) == 16
    text = "\n".join(lines)
    assert "r=0 " in text and "r=700" in text and "r=900" in text
    assert lines[0] == "Sweep: 0 of 1000 trials scored, 1 failed; adapters: 1 fitting, 1 failed, 998"


def test_stopping_is_said_in_the_table(busy: SweepState) -> None:
    busy.stopping = True
    assert drawn(busy)[-1] == "finishing the step, saving; press Ctrl-C again to end at once"


def test_names_are_text(clock: Any) -> None:
    state = SweepState([JobLine(0, "tags=[red] prompt=请[b]转写\x1b[2J\n", "a")], clock)
    state.apply(Failed("a", Failure("E", "[/b] \x1bc", user=True)))
    text = "\n".join(drawn(state, width=120))
    assert r"tags=[red] prompt=请[b]转写\x1b[2J\n" in text and r"failed: [/b] \x1bc" in text
