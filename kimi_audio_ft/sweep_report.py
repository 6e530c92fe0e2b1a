"""A Hydra callback that writes the report when a sweep ends, whether or not some of its trials failed."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.errors import UserError

log = logging.getLogger(__name__)

# In the sweep's folder: what successive halving decided.
HALVING = "halving.json"
# What a trial writes into its folder (see scores.py); .hydra is Hydra's own.
RECORDS = ("scores.json", "baseline.json", "failure.json", "utterances.jsonl", "curves.jsonl")


class SweepReport(Callback):
    """Runs ``multirun_analysis`` on the sweep's folder, so that one command ends in one report."""

    # Folder of the sweep that this process is running; Hydra does not call on_multirun_end when a trial failed.
    _running: ClassVar[Path | None] = None

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
        SweepReport._running = folder
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")  # as Hydra's own sweeper does, but not every other one

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report and print the leaderboard."""
        SweepReport._running = None
        write_sweep_report(Path(config.hydra.sweep.dir))

    @classmethod
    def conclude_failed(cls) -> str | None:
        """Write the report of a sweep that an error ended.

        Returns:
            Which trials failed and why; None when this process runs no sweep, or the error was not a trial's.
        """
        folder, cls._running = cls._running, None
        if folder is None:
            return None
        failures = sorted(folder.glob("*/failure.json"), key=lambda path: (len(path.parent.name), path.parent.name))
        if not failures:
            return None
        write_sweep_report(folder)
        num_trials = len(list(folder.glob("*/.hydra")))
        lines = [f"{len(failures)} of {num_trials} trials failed; the log of each is train.log in its folder"]
        for path in failures:
            failure = json.loads(path.read_text(encoding="utf-8"))
            reason = (failure["message"].splitlines() or [failure["error_type"]])[0]
            lines.append(f"  {path.parent} ({failure['trial']}): {reason}")
        lines.append("Mend the cause and run the same command again; what is done is not done again")
        return "\n".join(lines)


def write_sweep_report(folder: Path) -> None:
    """Write the report and print the leaderboard; a report that cannot be made must not hide the sweep's end."""
    from multirun_analysis.report import load_sweep, write_comparison
    from multirun_analysis.terminal import print_leaderboard

    try:
        comparison = load_sweep(folder)
        paths = write_comparison(comparison)
        print_leaderboard(comparison)
    except UserError as error:
        log.warning("no report: %s", error)
        return
    print(f"report: {paths.html}")
