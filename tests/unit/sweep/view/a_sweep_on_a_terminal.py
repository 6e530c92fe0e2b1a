"""Run by test_screen.py on a terminal of its own: a view, and what this process writes beside it."""

from __future__ import annotations

import logging
import sys
import warnings

from hydra.core.utils import configure_log
from omegaconf import OmegaConf

from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.sweep.events import Failed, Step
from kimi_audio_ft.sweep.view.screen import SweepView
from kimi_audio_ft.sweep.view.state import JobLine

JOB_LOGGING = {
    "version": 1,
    "formatters": {"simple": {"format": "NEW %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "simple", "stream": "ext://sys.stdout"}},
    "root": {"level": "INFO", "handlers": ["console"]},
    "disable_existing_loggers": False,
}
# Sets the title, clears the screen, resets the terminal, erases the line above.
ESCAPES = "\x1b]0;title\x07\x1b[2J\x1bc\x9b1A\x9b2K"


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="OLD %(message)s", level=logging.INFO)
    warnings.formatwarning = lambda message, *where: f"warning: {message}\n"
    old, log = logging.getLogger().handlers[0], logging.getLogger("trial")
    with SweepView([JobLine(0, f"r=8 speaker=学{ESCAPES}", "a"), JobLine(1, "r=16", "b")]) as view:
        view.event(Step("a", 1, 8, loss=1.0, tokens_per_second=10.0))
        log.info("old handler")
        print("printed [/b]", flush=True)
        warnings.warn("warned", stacklevel=1)
        configure_log(OmegaConf.create(JOB_LOGGING))
        log.info("new handler\nin two lines")
        old.emit(logging.makeLogRecord({"msg": "old handler again"}))
        log.info("log %s", ESCAPES)
        view.event(Failed("b", Failure("TrainingFailed", f"message {ESCAPES}", user=True)))
        print("long", 30 * "word ")
        print("no newline [/b]", end="")
    print("\nAFTER")
    log.info("after the view")


if __name__ == "__main__":
    main()
