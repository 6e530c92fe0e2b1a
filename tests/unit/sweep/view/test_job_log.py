"""Logs of jobs one after the other: each in its own folder, as Hydra would configure it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.sweep.view.job_log import JobLog


def written(name: str) -> dict[str, Any]:
    """A configuration of logging as Hydra has it by default, without the console."""
    filename = "${hydra.runtime.output_dir}/${hydra.job." + name + "}.log"
    return {
        "version": 1,
        "formatters": {"simple": {"format": "%(levelname)s %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "formatter": "simple", "filename": filename}},
        "root": {"level": "INFO", "handlers": ["file"]},
        "disable_existing_loggers": False,
    }


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in [one for one in root.handlers if one not in before]:
        handler.close()
    root.handlers[:], root.level = before, level


def config(configured: Any, folder: Path, number: int) -> DictConfig:
    about = {"runtime": {"output_dir": str(folder)}, "job": {"name": "train", "num": number}}
    whole = OmegaConf.create({"hydra": {"job_logging": configured, "verbose": False, **about}})
    assert isinstance(whole.hydra, DictConfig)
    return whole.hydra


@pytest.mark.parametrize("of_file", ["name", "num"])
def test_every_job_logs_into_its_own_folder(tmp_path: Path, of_file: str) -> None:
    """Hydra's handler is kept where the file's name is the same."""
    log, handlers, configured = JobLog(), [], written(of_file)
    for number in (3, 4, 5):
        folder = tmp_path / str(number)
        folder.mkdir()
        log.open(config(configured, folder, number), configured, folder)
        logging.getLogger("job").info("number %d", number)
        handlers.append(logging.getLogger().handlers[-1])
    assert (handlers[0] is handlers[2]) is (of_file == "name")
    for number in (3, 4, 5):
        (file,) = (tmp_path / str(number)).iterdir()
        assert file.name == {"name": "train.log", "num": f"{number}.log"}[of_file]
        assert file.read_text(encoding="utf-8") == f"INFO number {number}\n"


def test_what_was_configured_between_jobs_is_configured_anew(tmp_path: Path) -> None:
    log, configured = JobLog(), written("name")
    log.open(config(configured, tmp_path, 0), configured, tmp_path)
    logging.getLogger().handlers.clear()
    log.open(config(configured, tmp_path, 1), configured, tmp_path)
    logging.getLogger("job").info("here")
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == "INFO here\n"
