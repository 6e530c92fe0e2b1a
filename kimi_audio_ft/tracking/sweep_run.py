"""A finished sweep as one more W&B run of its group: the report as an artifact, the leaderboard as a table."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.train import LoggerConfig
from kimi_audio_ft.tracking.wandb_run import WandbRun, staging_in
from kimi_audio_ft.tracking.wandb_values import summary_of

log = logging.getLogger(__name__)

JOB_TYPE = "report"
FOLDER = "report"
"""In the sweep's folder, where this run's files lie: ``wandb sync SWEEP/*/wandb`` finds them beside the trials'."""
LEADERBOARD = "leaderboard"

# Columns of the leaderboard beside the swept parameters, where trials.json has them.
_FIRST = ("rank", "kind", "trial")
_FIGURES = (
    *("cer", "cer_ci_low", "cer_ci_high", "cer_std", "cer_normalised", "mer", "wer", "exact_match"),
    *("substitutions", "deletions", "insertions", "empty_rate", "over_generation_rate", "pinyin_error_rate"),
    *("base_cer", "relative_reduction", "in_best_group", "recommended", "train_seconds", "decode_seconds", "signature"),
)


def record_sweep(folder: Path, files: Sequence[Path]) -> None:
    """Upload the report of the sweep in ``folder``, when its trials were recorded by W&B; never raises.

    Args:
        folder: as Hydra names it, since the group of the trials' runs is this very name.
        files: report.html, trials.csv and trials.json (found by its name), which become the artifact.
    """
    try:
        settings = _logger_of(folder)
        if settings is None:
            return
        (document,) = (json.loads(path.read_text(encoding="utf-8")) for path in files if path.suffix == ".json")
        (folder / FOLDER).mkdir(exist_ok=True)
    except Exception as error:  # as with the trials: nothing that W&B needs may end a sweep
        log.warning("W&B: the report is not uploaded: %s: %s", type(error).__name__, error)
        return
    ReportRun(settings, folder).record(document, files)


def _logger_of(folder: Path) -> LoggerConfig | None:
    """Settings of the first trial that W&B recorded, from the config that Hydra wrote beside it."""
    from multirun_analysis.records import read_yaml

    for path in sorted(folder.glob("*/.hydra/config.yaml")):
        config = read_yaml(path)
        if config["logger"]["kind"] == "wandb":
            return LoggerConfig(**config["logger"])
    return None


class ReportRun(WandbRun):
    """The run of a sweep's report, in the group of its trials."""

    def __init__(self, settings: LoggerConfig, sweep: Path) -> None:
        name, folder = f"report of {sweep.name}", sweep / FOLDER
        super().__init__(settings, trial_name=name, group=str(sweep), config={}, folder=folder, job_type=JOB_TYPE)

    def record(self, document: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log the leaderboard and the artifact, and close the run.

        Args:
            document: trials.json. Its figures get names that no trial has (``best_cer``), so that this run is no
                point of the trials' scatter plots.
        """
        if self._run is None:
            return
        with self._guarded("uploading the report"), staging_in(self._folder):
            import wandb

            artifact = wandb.Artifact(f"report-{self._run.id}", type=JOB_TYPE)
            for path in files:
                artifact.add_file(str(path), name=path.name)
            self._run.log_artifact(artifact)
            columns, rows = leaderboard(document)
            self._run.log({LEADERBOARD: wandb.Table(columns=[*columns], data=rows, allow_mixed_types=True)})
            self._run.summary.update(_summary(document))
            self._close(exit_code=0)


def leaderboard(document: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the leaderboard in trials.json: ranked trials and bases, the best first.

    Columns that no row has are left out; lists (``lora.target_modules``) are written as JSON.
    """
    entries = [entry for entry in (*document["trials"], *document["baselines"]) if entry.get("scores")]
    entries.sort(key=lambda entry: entry["scores"]["cer"])
    rows = [_flat(entry) for entry in entries]
    wanted = [*_FIRST, *document["swept"], *_FIGURES]
    columns = [column for column in wanted if any(row.get(column) is not None for row in rows)]
    return columns, [[_cell(row.get(column)) for column in columns] for row in rows]


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    scores = summary_of({**entry["scores"], "normalised": entry.get("normalised") or {}})
    return {**entry["params"], **scores, **{key: value for key, value in entry.items() if key != "scores"}}


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _summary(document: Mapping[str, Any]) -> dict[str, float]:
    scored = [entry["scores"]["cer"] for entry in document["trials"] if entry.get("scores")]
    return {"num_trials": len(document["trials"]), "num_scored": len(scored), "best_cer": min(scored)}
