"""Tasks as Slurm jobs, through submitit."""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.launcher import SlurmConfig
from kimi_audio_ft.engine.cluster import JobEnd, NotNow
from kimi_audio_ft.engine.place import python_path
from kimi_audio_ft.engine.slurm_job import SlurmTask
from kimi_audio_ft.engine.slurm_words import Asked, end_of, is_unreachable
from kimi_audio_ft.errors import UserError

log = logging.getLogger(__name__)

# Slurm's controller may be busy or restarting; it is asked again.
_SECONDS = 60


class Slurm:
    """Slurm's queue. gpus_per_pack: None: one GPU where the cluster, or the partition, has any."""

    def __init__(self, settings: SlurmConfig, gpus_per_pack: int | None) -> None:
        if find_spec("submitit") is None:
            raise UserError(
                'hydra.launcher.executor=slurm: the package submitit is missing. Run pip install -e ".[cluster]"'
            )
        if shutil.which("sbatch") is None:
            raise UserError(
                "hydra.launcher.executor=slurm: there is no sbatch on PATH. Run this on a node of the cluster that may "
                "submit jobs, or use hydra.launcher.executor=local"
            )
        self.settings = settings
        self.gpus = int(gpus_anywhere(settings.partition)) if gpus_per_pack is None else gpus_per_pack
        self.asked_for = Asked(settings, self.gpus)
        self.max_restarts = settings.max_requeues
        self._asked = time.monotonic()
        self._told: set[str] = set()
        self._silent = False
        self._used = False

    def submit(self, task_file: Path, name: str) -> str:
        """Queue a task; submitit's files lie beside it in ``slurm/``."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = submitit.SlurmExecutor(task_file.parent / "slurm", max_num_timeout=self.settings.max_requeues)
        executor.update_parameters(**self._parameters(name))
        try:
            with _python_path(), redirect_stderr(io.StringIO()):  # submitit prints what it then raises
                job = executor.submit(SlurmTask(), str(task_file)).job_id
        except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
            raise self._refusal(" ".join(str(error).split())) from None
        self._used = True
        log.info("%s is Slurm job %s", name, job)
        return job

    def _refusal(self, said: str) -> UserError | NotNow:
        if self._used and is_unreachable(said):
            self._say_silent(_NoAnswer(said))
            return NotNow(said)
        return UserError(self.asked_for.refused(said))

    def _parameters(self, name: str) -> dict[str, Any]:
        settings = self.settings
        asked = {
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "mem": None if settings.mem_gb is None else f"{int(1024 * settings.mem_gb)}M",
            "gpus_per_node": self.gpus or None,
        }
        return {key: value for key, value in asked.items() if value is not None} | {
            "job_name": f"kimi_audio_ft {name}",
            "time": settings.time_minutes,
            "signal_delay_s": settings.signal_seconds,
            "cpus_per_task": settings.cpus_per_task,
            # Since Slurm 22.05 srun does not take this over from the job, and binds the task to one core.
            "srun_args": [f"--cpus-per-task={settings.cpus_per_task}"],
            "additional_parameters": {"requeue": True, "chdir": str(Path.cwd()), **settings.extra},
        }

    def ended(self, jobs: Sequence[str]) -> dict[str, JobEnd]:
        """Asks Slurm every ``poll_seconds``."""
        if not jobs or time.monotonic() - self._asked < self.settings.poll_seconds:
            return {}
        self._asked = time.monotonic()
        states = self._job_states(jobs)
        return {job: end for job, state in states.items() if (end := end_of(job, state)) is not None}

    def _job_states(self, jobs: Sequence[str]) -> dict[str, str]:
        """Slurm's words for the states of jobs; jobs of which it says nothing now are left out.

        The queue knows running jobs, and for some minutes those that have ended; later only the accounting does, where
        there is one.
        """
        try:
            listed = _slurm("squeue", "--noheader", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}")
        except _NoAnswer as error:
            self._say_silent(error)
            return {}
        self._say_silent(None)
        states = {}
        for line in listed.splitlines():
            job, states[job], reason = line.split("|", 2)
            if states[job] == "PENDING" and reason not in self._told:
                self._told.add(reason)  # of many jobs the first says it for all
                unusual = self.asked_for.waits(job, reason)
                if unusual:
                    log.warning("%s", unusual)
        gone = [job for job in jobs if job not in states]
        return states | (_recorded(gone) if gone else {})

    def _say_silent(self, error: _NoAnswer | None) -> None:
        """Tell once that Slurm does not answer, and once that it does again."""
        if error is not None and not self._silent:
            log.warning("Slurm does not answer: %s. Its jobs may well run on; it is asked again and again", error)
        elif error is None and self._silent:
            log.warning("Slurm answers again")
        self._silent = error is not None

    def stop(self, jobs: Sequence[str]) -> None:
        """Cancel what waits, and have what runs save and end; asked again while they have not ended."""
        try:
            _slurm("scancel", "--state=PENDING", *jobs)
            _slurm("scancel", "--signal=INT", *jobs)
        except _NoAnswer as error:
            self._say_silent(error)
        self._asked = float("-inf")

    def close(self, jobs: Sequence[str]) -> None:
        """Cancel jobs; Slurm lets them save for its KillWait."""
        if not jobs:
            return
        try:
            _slurm("scancel", *jobs)
        except _NoAnswer as error:
            log.warning(
                "Slurm does not answer: %s. When it does, cancel what is left: scancel %s", error, " ".join(jobs)
            )


def gpus_anywhere(partition: str | None) -> bool:
    """Whether any node of the cluster, or of a partition, has GPUs that can be asked for."""
    where = [] if partition is None else [f"--partition={partition}"]
    with suppress(_NoAnswer):  # sbatch will say it
        return "gpu" in _slurm("sinfo", "--noheader", "--format=%G", *where)
    return False


def _recorded(jobs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    with suppress(_NoAnswer):  # many clusters have no accounting
        lines = _slurm("sacct", "-n", "-X", "-P", "--format=JobID,State", f"--jobs={','.join(jobs)}").splitlines()
        found = dict(line.split("|", 1) for line in lines if "|" in line)
    # "CANCELLED by 1000" is a state with its author.
    return {job: found[job].split()[0] if job in found else "no longer known to Slurm" for job in jobs}


class _NoAnswer(Exception):
    """Slurm cannot be asked now; the message says why."""


def _slurm(*command: str) -> str:
    """What a Slurm command prints; "" when it knows none of the jobs.

    Raises:
        _NoAnswer: it failed, or took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NoAnswer(str(error)) from None
    if done.returncode and "Invalid job id" in done.stderr:
        return ""
    if done.returncode:
        raise _NoAnswer(done.stderr.strip() or f"{command[0]} ended with exit code {done.returncode}")
    return done.stdout


@contextmanager
def _python_path() -> Iterator[None]:
    """sbatch hands this process's environment to the job, where submitit imports this package."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
