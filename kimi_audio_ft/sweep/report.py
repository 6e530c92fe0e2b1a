"""A Hydra callback that ends a sweep with its report and last messages, whether or not some trials failed."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.view.screen import quiet_job_console
from kimi_audio_ft.sweep_folder import HALVING, LEDGER, RECORDS, planned_trials
from kimi_audio_ft.text import first_line
from kimi_audio_ft.tracking.wandb import FOLDER as REPORT_RUN
from kimi_audio_ft.tracking.wandb import record_sweep

log = logging.getLogger(__name__)

# Failed trials that are listed one by one.
_MOST_LISTED = 20


class SweepReport(Callback):
    """Runs ``multirun_analysis`` on the sweep's folder, so that one command ends in one report.

    ``language`` is the report's, "en" or "zh": ``hydra.callbacks.report.language``.
    """

    # Folder of the sweep that this process is running; Hydra does not call on_multirun_end when a trial failed.
    _running: ClassVar[Path | None] = None
    _language: ClassVar[str] = "en"

    def __init__(self, language: str = "en") -> None:
        """Refuse another language (ConfigError) now, and not at the end of the sweep."""
        if language != SweepReport._language:
            from multirun_analysis.messages import messages_in

            SweepReport._language = messages_in(language).language

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget an earlier sweep in the same folder; its products are in the store, so nothing is lost."""
        folder = Path(config.hydra.sweep.dir)
        if OmegaConf.select(config, "hydra.runtime.choices.hydra/sweeper") != "halving":
            (folder / HALVING).unlink(missing_ok=True)  # halving itself keeps the times of what it decides again
        for hydra in folder.glob("*/.hydra"):
            for name in RECORDS:
                (hydra.parent / name).unlink(missing_ok=True)
            shutil.rmtree(hydra)
            # Each trial records itself anew; two offline runs of one trial would be uploaded as two.
            shutil.rmtree(hydra.parent / "wandb", ignore_errors=True)
        shutil.rmtree(folder / REPORT_RUN / "wandb", ignore_errors=True)
        (folder / LEDGER).unlink(missing_ok=True)
        SweepReport._running = folder
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")  # as Hydra's own sweeper does, but not every other one

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep off the console what an open view shows of the trial."""
        quiet_job_console()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report, print the leaderboard and what failed (a sweeper may go on without some trials)."""
        SweepReport._running = None
        folder = Path(config.hydra.sweep.dir)
        write_sweep_report(folder, SweepReport._language)
        for line in failed_trials(folder):
            print(line)

    @classmethod
    def conclude_failed(cls) -> str | None:
        """Write the report of a sweep that an error ended.

        Returns:
            Which trials failed and why; None when this process runs no sweep, or the error was not a trial's.
        """
        folder, cls._running = cls._running, None
        failures = failed_trials(folder) if folder is not None else []
        if folder is None or not failures:
            return None
        if any(folder.glob("*/scores.json")):
            write_sweep_report(folder, cls._language)
        again = "Fix the cause and re-run: finished trials are skipped"
        return "\n".join([*failures, again])

    @classmethod
    def conclude_interrupted(cls) -> str:
        """How far a sweep was when it was interrupted; empty when this process runs none."""
        folder, cls._running = cls._running, None
        if folder is None:
            return ""
        done, failures = len(list(folder.glob("*/scores.json"))), failed_trials(folder)
        planned = planned_trials(folder)
        of = f" of {planned}" if planned else ""
        said = f"{done}{of} trial{' is' if (planned or done) == 1 else 's are'} done in {folder}"
        return "\n".join([said, *failures])


def failed_trials(folder: Path) -> list[str]:
    """Lines for a person: how many trials failed, and of each its log and why; none when none failed."""
    failures = sorted(folder.glob("*/failure.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    if not failures:
        return []
    number = max(planned_trials(folder) or 0, len(list(folder.glob("*/.hydra"))))
    lines = [f"{len(failures)} of {number} trials failed:"]
    for path in failures[:_MOST_LISTED]:
        failure = json.loads(path.read_text(encoding="utf-8"))
        reason = first_line(failure["message"], failure["error_type"])
        lines.append(f"  {path.parent / 'train.log'} ({failure['trial']}): {reason}")
    if len(failures) > _MOST_LISTED:
        lines.append(f"  and {len(failures) - _MOST_LISTED} more; `ls {folder}/*/failure.json` lists them")
    return lines


def write_sweep_report(folder: Path, language: str = "en") -> None:
    """Write the report and print the leaderboard; a report that cannot be made must not hide the sweep's end.

    Where W&B records the trials, it gets the report too.
    """
    from multirun_analysis.analysis import load_sweep
    from multirun_analysis.report.page import write_comparison
    from multirun_analysis.terminal import print_leaderboard

    try:
        comparison = load_sweep(folder)
        paths = write_comparison(comparison, language=language)
        print_leaderboard(comparison, failures=False)
    except UserError as error:
        log.warning("no report: %s", error)
        return
    print(f"report: {paths.html}")
    record_sweep(folder, [paths.html, paths.csv, paths.json])
