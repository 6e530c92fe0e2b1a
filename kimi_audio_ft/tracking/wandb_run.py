"""A trial as a Weights & Biases run (written against wandb 0.31).

W&B is a window on a trial, never a part of it: whatever goes wrong in there, from a missing package to a dead
network, is one logged warning, and the trial goes on without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import regex

from kimi_audio_ft.tracking.base import TrackerSettings, Utterance
from kimi_audio_ft.tracking.wandb_login import Mode, mark_unreachable, resolve_mode
from kimi_audio_ft.tracking.wandb_values import (
    FACTS,
    facts_of,
    flat_keys,
    short_name,
    summary_of,
    table_cell,
    table_columns,
    worst_first,
)

log = logging.getLogger(__name__)

STEP = "step"
TABLE = "utterances"

_INIT_SECONDS = 30.0
_FINISH_SECONDS = 300.0
# API keys have 40 characters or more; nothing else in a wandb message that matters is that long without a break.
_SECRET = regex.compile(r"[\w-]{40,}")


class WandbRun:
    """One trial's W&B run, open from construction until ``finish`` or ``fail``.

    The config is stored nested and with dotted keys (``lora.r``): W&B's filters and grouping read the first, scripts
    the second. Curves have a step of their own (``step``), so that those of a reused adapter can be replayed into a
    run; the summary is flat (``wandb_values``); local files go to ``folder/wandb``.
    """

    def __init__(
        self,
        settings: TrackerSettings,
        *,
        trial_name: str,
        group: str,
        config: Mapping[str, Any],
        folder: Path,
        job_type: str = "trial",
    ) -> None:
        self._settings, self._folder = settings, folder
        self._run: Any = None
        identity = {
            "project": settings.project,
            "entity": settings.entity,
            "name": short_name(trial_name),
            "group": short_name(group),
            "job_type": job_type,
            "tags": list(settings.tags),
            "config": {**config, **flat_keys(config)},
            "dir": str(folder.resolve()),
        }
        with self._guarded("starting the run"):
            self._start(identity)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to the curves."""
        if self._run is not None:
            with self._guarded("logging"):
                self._run.log({**metrics, STEP: step})

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        """Write the final scores and the table of the worst utterances, and close the run."""
        if self._run is not None:
            with self._guarded("finishing the run"):
                facts = facts_of(summary)
                self._run.config.update({FACTS: facts, **flat_keys({FACTS: facts})})
                self._run.summary.update(summary_of(summary))
                self._log_table(utterances)
                self._close(exit_code=0)

    def fail(self, message: str) -> None:
        """Close the run as failed, with the reason in its summary."""
        if self._run is not None:
            with self._guarded("closing the run"):
                self._run.summary["failure"] = message
                self._close(exit_code=1)

    @contextlib.contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """Turn whatever wandb raises into one warning and the end of this record."""
        try:
            yield
        except Exception as error:  # no narrower class holds everything that wandb and its service raise
            log.warning("W&B failed while %s; everything else goes on without it: %s", doing, described(error))
            with contextlib.suppress(Exception):
                self._close(exit_code=1)

    def _close(self, exit_code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=exit_code)

    def _start(self, identity: dict[str, Any]) -> None:
        # Read by wandb-core when it starts: no crash reports of our users' runs to W&B's own error tracker.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        mode = resolve_mode(self._settings.mode)
        if mode == "disabled":
            return
        try:
            self._run = _init(mode, identity)
        except Exception as error:
            if mode == "offline":
                raise
            log.warning("W&B cannot be reached; this process writes offline runs from here: %s", described(error))
            mark_unreachable()
            self._run = _init("offline", identity)
        if not self._run.offline:
            log.info("W&B run: %s", self._run.url)
        self._run.define_metric(STEP, hidden=True)
        for curves in ("train/*", "val/*"):
            self._run.define_metric(curves, step_metric=STEP)

    def _log_table(self, utterances: Sequence[Utterance]) -> None:
        rows = worst_first(utterances, self._settings.utterance_rows)
        if rows:
            with staging_in(self._folder):
                self._run.log({TABLE: _table(rows, audio=self._settings.audio)})


def _init(mode: Mode, identity: dict[str, Any]) -> Any:
    import wandb

    quiet = wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_stats=True,
        x_save_requirements=False,
        reinit="create_new",
        init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", _INIT_SECONDS)),
        # wandb waits for ever by default; what was not uploaded by then stays in the folder for `wandb sync`.
        finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", _FINISH_SECONDS)),
        finish_timeout_raises=True,
    )
    return wandb.init(mode=mode, settings=quiet, **identity)


def _table(rows: Sequence[Utterance], *, audio: bool) -> Any:
    import wandb

    columns = table_columns(rows)
    # Figures that are whole in one row and null, or a fraction, in another are still one column.
    table = wandb.Table(columns=[*columns, *(["audio"] if audio else [])], allow_mixed_types=True)
    for row in rows:
        cells = [table_cell(row, column) for column in columns]
        if audio:
            path = row.get("audio")
            cells.append(wandb.Audio(str(path)) if path and Path(path).is_file() else None)
        table.add_data(*cells)
    return table


@contextlib.contextmanager
def staging_in(folder: Path) -> Iterator[None]:
    """Let wandb stage the table's files in the trial's folder instead of ``~/.local/share``.

    An offline run points to its staged files until it is synced, and they should go where the run goes.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve() / "wandb")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def described(error: Exception) -> str:
    """What an error of wandb's says, on one line and without anything that could be an API key."""
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {_SECRET.sub('***', first_line)}"
