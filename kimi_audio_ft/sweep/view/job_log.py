"""Logging of a sweep's jobs, as Hydra configures it for each; those that differ in the folder alone share handlers."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from hydra.core.utils import configure_log
from omegaconf import DictConfig

_OPTIONS = {"class", "formatter", "level", "filename"}
_FOLDER, _NAME = "${hydra.runtime.output_dir}", "${hydra.job.name}"


class JobLog:
    """The log of one job after the other; to configure it anew takes as long as half of what a stored trial does."""

    def __init__(self) -> None:
        self._written: Any = None
        self._folder = Path()
        self._files: list[logging.FileHandler] = []

    def open(self, hydra: DictConfig, written: Any, folder: Path) -> None:
        """Log into a job's folder.

        Args:
            hydra: Hydra's part of the job's config. written: its job_logging as written; jobs with the same object log
                alike, in folders of their own.
        """
        root = logging.getLogger()
        if written is self._written and self._files and all(file in root.handlers for file in self._files):
            for file in self._files:
                path = folder / Path(file.baseFilename).relative_to(self._folder)
                file.baseFilename = str(path)
                before = file.setStream(path.open("a", encoding=file.encoding, errors=file.errors))
                if before is not None:
                    before.close()
        else:
            configure_log(hydra.job_logging, hydra.verbose)
            files = [one for one in root.handlers if type(one) is logging.FileHandler]
            self._files = [one for one in files if Path(one.baseFilename).is_relative_to(folder)]
            self._written = written if _has_plain_files(written) else None
        self._folder = folder


def _has_plain_files(written: Any) -> bool:
    """Whether a log's configuration depends on the job's folder in nothing but the names of the root's files."""
    if not isinstance(written, dict) or any("handlers" in one for one in (written.get("loggers") or {}).values()):
        return False
    named = {*re.findall(r"\$\{[^}]*\}", str(written))}
    files = {name: one for name, one in (written.get("handlers") or {}).items() if _FOLDER in str(one)}
    kinds = [one.keys() <= _OPTIONS and one.get("class") == "logging.FileHandler" for one in files.values()]
    others = [value for key, value in written.items() if key != "handlers"] + [
        one.get("formatter") for one in files.values()
    ]
    return named <= {_FOLDER, _NAME} and all(kinds) and _FOLDER not in str(others)
