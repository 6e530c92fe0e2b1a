"""What successive halving decided: ``halving.json`` in the sweep's folder, and a table in the terminal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.launcher import HalvingConfig
from kimi_audio_ft.engine.halving import Candidate, Fate, show
from kimi_audio_ft.files import write_json
from kimi_audio_ft.sweep_folder import HALVING

_SETTINGS = ("rungs", "reduction_factor", "metric", "max_candidates", "seed")
_MOST_ROWS = 40
_STYLES = {Fate.CONTINUED: None, Fate.PASSED: None, Fate.STOPPED: "dim", Fate.FAILED: "red"}


class Record:
    """Writes ``halving.json`` anew after every rung.

    What an interrupted sweep in the same folder had decided keeps its time when it is decided in the same way again.
    """

    def __init__(self, folder: Path, settings: HalvingConfig, num_jobs: int) -> None:
        self.path = folder / HALVING
        self.settings, self.num_jobs = settings, num_jobs
        self._times = dict(_times(self.path))

    def write(self, candidates: Sequence[Candidate]) -> None:
        """Write all that has been decided up to now."""
        document = {
            **{name: getattr(self.settings, name) for name in _SETTINGS},
            "jobs_in_grid": self.num_jobs,
            "steps_trained": sum(_trained(candidate) for candidate in candidates),
            "steps_of_all": sum(candidate.num_steps for candidate in candidates),
            "candidates": [self._entry(candidate) for candidate in candidates],
        }
        write_json(self.path, document)

    def _entry(self, candidate: Candidate) -> dict[str, Any]:
        history = [self._rung(candidate, place) for place in range(len(candidate.decisions))]
        untouched = {"rung": 0, "step": 0, "score": None, "rank": None, "decision": Fate.CONTINUED, "reason": ""}
        return {
            "name": candidate.name,
            "overrides": candidate.overrides,
            "jobs": len(candidate.jobs),
            "signature": candidate.signature,
            "num_steps": candidate.num_steps,
            **(history[-1] if history else {**untouched, "time": None}),
            "history": history,
        }

    def _rung(self, candidate: Candidate, place: int) -> dict[str, Any]:
        result, decision = candidate.results[place], candidate.decisions[place]
        score = result.score if result.score is not None and math.isfinite(result.score) else None
        facts = {"rung": place + 1, "step": result.step, "score": score, **asdict(decision)}
        facts["decision"] = facts.pop("fate")
        moment = self._times.setdefault(_identity(candidate.signature, facts), time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        return {**facts, "time": moment}


def _times(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        for entry in json.loads(path.read_text(encoding="utf-8"))["candidates"]:
            for rung in entry["history"]:
                yield _identity(entry["signature"], rung), rung["time"]


def _identity(signature: str, rung: dict[str, Any]) -> str:
    return json.dumps([signature, *(rung[key] for key in ("rung", "step", "score", "rank", "decision"))])


def _trained(candidate: Candidate) -> int:
    return candidate.num_steps if candidate.is_alive else candidate.results[-1].step


def print_rung(candidates: Sequence[Candidate], rung: int, settings: HalvingConfig) -> None:
    """Print what a rung has decided about the candidates that reached it.

    Args:
        rung: counted from 0.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    reached = [candidate for candidate in candidates if len(candidate.decisions) > rung]
    going_on = sum(candidate.is_alive for candidate in reached)
    steps = sorted({candidate.results[rung].step for candidate in reached})
    at = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    title = f"Rung {rung + 1} of {len(settings.rungs)}, {at}: {going_on} of {len(reached)} adapters go on"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("#", "adapter", "score", "decision"):
        table.add_column(heading, justify="right" if heading == "#" else "left", overflow="fold")
    reached.sort(key=lambda candidate: candidate.decisions[rung].rank or math.inf)
    for candidate in reached[:_MOST_ROWS]:
        decision, score = candidate.decisions[rung], candidate.results[rung].score
        said = decision.fate.value
        if decision.fate in (Fate.FAILED, Fate.PASSED):
            said += f": {decision.reason.splitlines()[0]}"
        cells = (str(decision.rank or "–"), candidate.name, show(score, settings.metric), said)
        table.add_row(*map(Text, cells), style=_STYLES[decision.fate])
    console = Console()
    console.print(Text(title), style="bold")  # as the table's title it would be folded to the table's width
    console.print(table)
    if len(reached) > _MOST_ROWS:
        console.print(f"... and {len(reached) - _MOST_ROWS} more, all in {HALVING}")
