"""A stand-in for W&B's server, which no test may reach: `wandb.init` with runs that go on when their id is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import wandb

from kimi_audio_ft.tracking import wandb as tracking


@dataclass
class OnlineRun:
    """A run as far as a tracker uses one."""

    id: str
    offline: bool
    resumed: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None
    url: str = "https://wandb.example/run"
    stats: bool = True

    def define_metric(self, *_: Any, **__: Any) -> None:
        """Nothing: how a metric is drawn."""

    def log(self, row: dict[str, Any]) -> None:
        """Add points."""
        self.history.append(row)
        self.summary |= row

    def finish(self, exit_code: int) -> None:
        """Close the run."""
        self.exit_code = exit_code


class Server:
    """Takes the place of `wandb.init` for a test, with everybody logged in.

    asked: ids that were asked for online. refused: by id, or "" of all. marked: whether it counts as unreachable.
    before: called before each start of a run.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Callable[[], Any] = lambda: None) -> None:
        self.runs: dict[str, OnlineRun] = {}
        self.asked: list[str] = []
        self.refused: dict[str, Exception] = {}
        self.marked = False
        self.before = before
        monkeypatch.setattr(wandb, "init", self.init)
        monkeypatch.setattr(tracking, "resolve_mode", lambda asked: "online")
        monkeypatch.setattr(tracking, "mark_unreachable", self._mark)

    def init(self, *, mode: str, settings: wandb.Settings, id: str, **_: Any) -> OnlineRun:
        """Start a run, or go on with the one of this id."""
        self.before()
        if mode == "online":
            self.asked.append(id)
            if error := self.refused.get(id) or self.refused.get(""):
                raise error
        run = self.runs.setdefault(id, OnlineRun(id, mode == "offline"))
        run.resumed, run.exit_code = bool(run.history or run.summary), None
        run.stats = not settings.x_disable_stats
        return run

    def _mark(self) -> None:
        self.marked = True
