"""``--watch``: the report of a running sweep, rewritten when its files change.

It ends when the sweep is done or has no living process. A killed sweep writes nothing, but the store has a lock for
every sweep that a process of this machine runs, and the lock ends with the process. Sweeps on other machines,
or over another store, are watched until they are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.store.usage import is_alive
from kimi_audio_ft.sweep_folder import UTTERANCES, hydras_folder, planned_trials, trial_folders
from multirun_analysis.analysis import Analysis, load_sweep
from multirun_analysis.messages import Messages
from multirun_analysis.records import write_whole
from multirun_analysis.report.page import ReportPaths, render, render_waiting, write_comparison

SECONDS = 30.0
# The pause is at least this many times as long as the last report took: trainings need the machine.
REST = 5
# A sweep that had no process for so many seconds, in which nothing changed either, has ended. It has none for some
# seconds while it composes its trials, between two launches of a sweeper, and while its last report is written.
PATIENCE = 120.0
ENDED = ("scores.json", "failure.json")
WATCHED = (*ENDED, "baseline.json", UTTERANCES, "curves.jsonl")

State = dict[str, tuple[int, int]]


def watch(
    sweep_dir: Path,
    out: Path | None,
    say: Messages,
    seconds: float = SECONDS,
    wait: Callable[[float], None] = time.sleep,
    load: Callable[[Path], Analysis] = load_sweep,
) -> ReportPaths:
    """Write report.html whenever a trial's files changed, until the sweep is done; then all three files.

    Until then the page loads itself again every ``seconds``. trials.json and trials.csv are left to the sweep's end:
    a trials.json younger than multirun.yaml is how one knows that the sweep is done. One that ended otherwise gets a
    last page of what there is.

    Args:
        sweep_dir: may still be empty.
        out: as in ``write_report``.
        seconds: between two looks.
        wait: sleeps for so many seconds.
        load: reads and analyses the folder, by a margin or an error rate of its own.

    Raises:
        UserError: there is no such folder, the report cannot be written, the sweep is done and has no result, or no
            process of it has been alive for ``PATIENCE`` seconds.
    """
    if not sweep_dir.is_dir():
        raise DataError(sweep_dir, "is not a folder", "Give the folder of a sweep that has begun")
    paths = ReportPaths.in_folder(Path(out or sweep_dir))
    seen: State | None = None
    is_written = False
    dead_for: float | None = None
    while not _is_done(sweep_dir):
        began, state = time.monotonic(), _state(sweep_dir)
        if state != seen or not _is_dead(sweep_dir):
            dead_for = None
        elif dead_for is None:
            dead_for = 0.0
        elif dead_for >= PATIENCE:
            _write(sweep_dir, paths.html, say, None, is_written, load)
            raise UserError(
                f"{sweep_dir}: the sweep is not done, and no process of it has been alive for {PATIENCE / 60:g} "
                f"minutes. The report shows it as it was: {paths.html}. Re-run the same sweep command: finished trials "
                "are skipped"
            )
        if state != seen:
            is_written = _write(sweep_dir, paths.html, say, seconds, is_written, load)
            seen = state
        pause = max(seconds, REST * (time.monotonic() - began))
        wait(pause)
        dead_for = None if dead_for is None else dead_for + pause
    return write_comparison(load(sweep_dir), out, say.language)


def _is_dead(sweep_dir: Path) -> bool:
    """Whether the store knows the sweep, and that nobody runs it."""
    return False in _lives(sweep_dir)


def _lives(sweep_dir: Path) -> set[bool | None]:
    """What the store knows of the sweep's processes under the names that its folder has."""
    return {is_alive(path) for path in {sweep_dir.absolute(), sweep_dir.resolve()}}


def _write(
    sweep_dir: Path,
    html: Path,
    say: Messages,
    seconds: float | None,
    is_written: bool,
    load: Callable[[Path], Analysis],
) -> bool:
    """Write the page; a half-written trial keeps the last one. Returns whether the page has results.

    seconds: after which the page loads itself again; None for the last page of a sweep that has no process any more.
    """
    try:
        page = render(load(sweep_dir), datetime.now().astimezone(), say, seconds)
    except (UserError, OSError) as error:
        if is_written:
            return True
        scored = any((trial / "scores.json").is_file() for trial in trial_folders(sweep_dir))
        why = str(error) if scored else _counts(sweep_dir, say)
        write_whole(html, render_waiting(sweep_dir.resolve().name, why, say, seconds))
        return False
    write_whole(html, page)
    return True


def _counts(sweep_dir: Path, say: Messages) -> str:
    trials = trial_folders(sweep_dir)
    failed = sum((trial / "failure.json").is_file() for trial in trials)
    running, waiting = len(trials) - failed, (planned_trials(sweep_dir) or 0) - len(trials)
    if waiting > 0:
        return say("watch.to_come", running=running, failed=failed, waiting=waiting)
    return say("watch.counts", running=running, failed=failed)


def _is_done(sweep_dir: Path) -> bool:
    """Whether the sweep wrote its own tables after it began; of a single run, whether it ended.

    Tables that appear while a process runs the sweep are another report's: its own follows when its trials have ended.
    """
    try:
        begun = (sweep_dir / "multirun.yaml").stat().st_mtime_ns
    except FileNotFoundError:
        return any((sweep_dir / name).is_file() for name in ENDED)
    try:
        is_newer = (sweep_dir / "trials.json").stat().st_mtime_ns >= begun
    except FileNotFoundError:
        return False
    return is_newer and True not in _lives(sweep_dir)


def _state(sweep_dir: Path) -> State:
    """Size and time of each file that the report is made of."""
    found: State = {}
    for folder in (sweep_dir, *trial_folders(sweep_dir)):
        for path in (*(folder / name for name in WATCHED), hydras_folder(folder) / "overrides.yaml"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                found[str(path)] = (facts.st_size, facts.st_mtime_ns)
    return found
