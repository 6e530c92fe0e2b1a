"""What a Slurm job runs, under submitit: one task's process, and what becomes of it when Slurm takes the node back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from kimi_audio_ft.engine.command import INTERRUPTED
from kimi_audio_ft.engine.job_process import TaskProcess


class SlurmTask:
    """Submitit pickles an object of this class, which holds nothing, and the path of a task file.

    Three kinds of signals arrive. Submitit's own (SIGUSR2, which Slurm sends before the time limit; SIGUSR1 is taken
    as the same): ``checkpoint`` saves, and submitit queues the job again. SIGTERM: Slurm preempts, requeues or cancels
    the job; save, and queue it again only when it is being preempted, since Slurm forgets a preempted job that ends by
    itself. SIGINT: the sweep is stopping; save and end.
    """

    def __init__(self) -> None:
        self.process: TaskProcess | None = None

    def __call__(self, task_file: str) -> None:
        """Run the task; the exit code says whether it is to go on."""
        import submitit

        requeue = signal.getsignal(submitit.JobEnvironment()._usr_sig())
        for number, handler in (
            (signal.SIGUSR1, requeue),
            (signal.SIGTERM, self._preempted),
            (signal.SIGINT, self._end),
        ):
            signal.signal(number, handler)
        self.process = TaskProcess(Path(task_file))
        code = self.process.wait()
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self, task_file: str) -> Any:
        """Save; returns what submitit runs when the job is back."""
        import submitit

        self._save()
        return submitit.helpers.DelayedSubmission(SlurmTask(), task_file)

    def _save(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process.wait()

    def _end(self, number: int, frame: Any) -> None:
        self._save()
        sys.exit(INTERRUPTED)

    def _preempted(self, number: int, frame: Any) -> None:
        self._save()
        job = os.environ["SLURM_JOB_ID"]
        if being_preempted(_asked("scontrol", "show", "job", job)):
            _asked("scontrol", "requeue", job)
        sys.exit(INTERRUPTED)


def being_preempted(job: str) -> bool:
    """Whether ``scontrol show job`` says so; a job that is cancelled or requeued by a person is COMPLETING already."""
    words = dict(word.split("=", 1) for word in job.split() if "=" in word)
    return words.get("JobState") == "RUNNING" and words.get("PreemptTime", "None") != "None"


def _asked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout
