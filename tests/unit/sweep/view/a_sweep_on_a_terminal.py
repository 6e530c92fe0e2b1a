"""Run by test_screen.py on a terminal of its own: a view, and everything that might write beside it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

from hydra.core.utils import configure_log
from omegaconf import OmegaConf

from kimi_audio_ft.sweep.events import Step
from kimi_audio_ft.sweep.view.screen import SweepView
from kimi_audio_ft.sweep.view.state import JobLine

JOB_LOGGING = {
    "version": 1,
    "formatters": {"simple": {"format": "NEW %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "simple", "stream": "ext://sys.stdout"}},
    "root": {"level": "INFO", "handlers": ["console"]},
    "disable_existing_loggers": False,
}


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="OLD %(message)s", level=logging.INFO)
    old, log = logging.getLogger().handlers[0], logging.getLogger("trial")
    with SweepView([JobLine(0, "r=8 speaker=学", "a"), JobLine(1, "r=16", "b")]) as view:
        view.event(Step("a", 1, 8, loss=1.0, tokens_per_second=10.0))
        log.info("old handler")
        print("printed", flush=True)
        os.write(2, b"to descriptor 2\n")
        subprocess.run(["sh", "-c", "echo from a child; echo error of a child >&2"], check=True)
        configure_log(OmegaConf.create(JOB_LOGGING))
        log.info("new handler")
        old.emit(logging.makeLogRecord({"msg": "old handler again"}))
        print("bar 1/3\rbar 2/3\rbar 3/3")
        print("no newline", end="")
    print("AFTER")
    log.info("after the view")


if __name__ == "__main__":
    main()
