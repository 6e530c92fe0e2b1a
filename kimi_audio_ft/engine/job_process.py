"""The process of a task inside a cluster's job: started, asked to stop, waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kimi_audio_ft.engine.place import Place

# Seconds between two looks at the process: signals and interrupts of the job are answered in between.
_PATIENCE = 0.2


def log_path(task_file: Path) -> Path:
    """Where all that a task prints goes."""
    return task_file.with_suffix(".log")


class TaskProcess:
    """``python -m kimi_audio_ft.engine``, in a session of its own.

    A cluster's signals reach every process of the job's group; this way the job alone hears them and asks this process
    to stop in good order. It ends by itself, saving, when the job's process is gone.
    """

    def __init__(self, task_file: Path) -> None:
        place = Place.read(task_file)
        assert place is not None, "the executor writes a place beside every task"
        # The task starts its own ranks; Lightning would take Slurm's single process for the whole of them.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment = {**inherited, **place.environment, "KIMI_AUDIO_FT_STORE": place.store}
        command = [sys.executable, "-m", "kimi_audio_ft.engine", str(task_file), "--with-parent"]
        with log_path(task_file).open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        """Ask it to save and end."""
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        while True:
            try:
                return self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                continue
