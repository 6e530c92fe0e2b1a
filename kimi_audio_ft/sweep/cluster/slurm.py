"""Tasks as Slurm jobs: sbatch, squeue, sacct and scancel; a job runs this module."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from kimi_audio_ft.config.launcher import SlurmConfig
from kimi_audio_ft.data.workers import SHARE_MEMORY
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.supervisor import JobEnd, NotNow
from kimi_audio_ft.sweep.task import INTERRUPTED, TaskProcess, log_path, python_path

log = logging.getLogger(__name__)

# Slurm's controller may be busy or restarting; it is asked again.
_SECONDS = 60


class Slurm:
    """Slurm's queue. gpus_per_pack: None: one GPU where the cluster, or the partition, has any."""

    def __init__(self, settings: SlurmConfig, gpus_per_pack: int | None) -> None:
        if shutil.which("sbatch") is None:
            raise UserError(
                "hydra.launcher.executor=slurm: there is no sbatch on PATH. Run this on a node of the cluster that may "
                "submit jobs, or use hydra.launcher.executor=local (in combine: executor=local)"
            )
        self.settings = settings
        self.gpus = int(_has_gpus(settings.partition)) if gpus_per_pack is None else gpus_per_pack
        self.asked_for = asked_for(settings, self.gpus)
        self.max_restarts = settings.max_requeues
        self.per_machine = 1  # that share cores; ``share_memory``
        self._asked = time.monotonic()
        self._told: set[str] = set()
        self._silent = False
        self._used = False

    def submit(self, task_file: Path, name: str) -> str:
        """Queue a task; all output of the job is in the task's log."""
        # Since Slurm 22.05 srun does not take the cores over from the job, and binds the task to one.
        srun = ["srun", f"--cpus-per-task={self.settings.cpus_per_task}"]
        command = shlex.join([*srun, sys.executable, "-m", __name__, str(task_file)])
        options = [f"--job-name=kimi_audio_ft {name}", f"--output={log_path(task_file)}", *self._options()]
        try:
            said = _slurm("sbatch", "--parsable", *options, f"--wrap={command}")
        except _NoAnswer as error:
            if self._used and is_unreachable(str(error)):
                self._say_silent(error)
                raise NotNow(str(error)) from None
            raise UserError(refusal(str(error), self.asked_for)) from None
        self._used = True
        job = said.strip().split(";")[0]  # of several clusters, its name follows
        log.info("%s is Slurm job %s", name, job)
        return job

    def _options(self) -> list[str]:
        settings = self.settings
        options = {
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "time": settings.time_minutes,
            "mem": None if settings.mem_gb is None else f"{int(1024 * settings.mem_gb)}M",
            "gpus-per-node": self.gpus or None,
            "nodes": 1,
            "ntasks-per-node": 1,
            "cpus-per-task": settings.cpus_per_task,
            "signal": f"USR2@{settings.signal_seconds}",
            "open-mode": "append",
            "requeue": True,
            "chdir": Path.cwd(),
            **{name.replace("_", "-"): value for name, value in settings.extra.items()},
        }
        given = {name: value for name, value in options.items() if value is not None}
        return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]

    def ended(self, jobs: Sequence[str]) -> dict[str, JobEnd]:
        """Ends of jobs; asks Slurm every ``poll_seconds``."""
        if not jobs or time.monotonic() - self._asked < self.settings.poll_seconds:
            return {}
        self._asked = time.monotonic()
        states = self._job_states(jobs)
        return {job: end for job, state in states.items() if (end := end_of(job, state)) is not None}

    def _job_states(self, jobs: Sequence[str]) -> dict[str, str]:
        """Slurm's names of the jobs' states, without jobs that it does not report now.

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
                unusual = waiting(job, reason, self.asked_for)
                if unusual:
                    log.warning("%s", unusual)
        gone = [job for job in jobs if job not in states]
        return states | (_recorded(gone) if gone else {})

    def _say_silent(self, error: _NoAnswer | None) -> None:
        """Log once that Slurm does not answer, and once that it does again."""
        if error is not None and not self._silent:
            log.warning("Slurm does not answer: %s. Its jobs may still run; asking again until it answers", error)
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


class _NoAnswer(Exception):
    """Slurm cannot be asked now; the message says why."""


def _slurm(*command: str) -> str:
    """Output of a Slurm command, "" when it knows none of the jobs; raises _NoAnswer if it failed or took too long."""
    environment = {**os.environ, "PYTHONPATH": python_path()}  # sbatch hands it to the job
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NoAnswer(str(error)) from None
    if done.returncode and "Invalid job id" in done.stderr:
        return ""
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise _NoAnswer(said or f"{command[0]} ended with exit code {done.returncode}")
    return done.stdout


def _has_gpus(partition: str | None) -> bool:
    """Whether any node of the cluster, or of a partition, has GPUs that can be asked for."""
    where = [] if partition is None else [f"--partition={partition}"]
    with suppress(_NoAnswer):  # sbatch will say it
        return "gpu" in _slurm("sinfo", "--noheader", "--format=%G", *where)
    return False


def _recorded(jobs: Sequence[str]) -> dict[str, str]:
    """The jobs' states in Slurm's accounting."""
    found: dict[str, str] = {}
    with suppress(_NoAnswer):  # many clusters have no accounting
        lines = _slurm("sacct", "-n", "-X", "-P", "--format=JobID,State", f"--jobs={','.join(jobs)}").splitlines()
        found = dict(line.split("|", 1) for line in lines if "|" in line)
    # "CANCELLED by 1000" is a state with its author.
    return {job: found[job].split()[0] if job in found else _FORGOTTEN for job in jobs}


# Messages about Slurm: why it refused a job, why a job waits, how one ended, and what to do.

_FORGOTTEN = "no longer known to Slurm"
_ENDS: dict[str, tuple[Literal["died", "lost", "cancelled"], str]] = {
    "COMPLETED": ("lost", "its task was asked to stop, and has saved"),
    "TIMEOUT": ("lost", "raise hydra.launcher.slurm.signal_seconds if it had no time to save"),
    **dict.fromkeys(("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"), ("lost", "")),
    "CANCELLED": ("cancelled", ""),
    "OUT_OF_MEMORY": ("died", "raise hydra.launcher.slurm.mem_gb"),
    "FAILED": ("died", "if Slurm cannot write logs there, it says nothing more"),
    **dict.fromkeys(("DEADLINE", _FORGOTTEN), ("died", "")),
}
# Usual reasons to wait; a person should be told of others.
_USUAL = ("None", "Priority", "Resources", "BeginTime", "Cleaning", "JobArrayTaskLimit")
# Reasons that do not pass by themselves: the job asks for what the partition or its nodes do not have.
_FOR_EVER = ("PartitionConfig", "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints")
# Messages of Slurm's commands that do not reach the controller, or do not know where it is.
_UNREACHABLE = ("Unable to contact slurm controller", "configuration source", "configuration file", "timed out")


def is_unreachable(said: str) -> bool:
    """Whether a command of Slurm's failed because it did not reach the controller."""
    return any(words in said for words in _UNREACHABLE)


def asked_for(settings: SlurmConfig, gpus: int) -> str:
    """Resources that every job of a sweep asks for, and how to see those that there are."""
    names = ("partition", "account", "qos", "time_minutes", "mem_gb", "cpus_per_task")
    values = {name: value for name in names if (value := getattr(settings, name)) is not None}
    values |= {f"extra.{name}": value for name, value in settings.extra.items()}
    listed = ", ".join(f"{name}={value}" for name, value in values.items())
    return (
        f"Asked for were {listed} and {gpus} GPUs (hydra.launcher.gpus_per_pack); "
        '`sinfo --format="%P %l %c %m %G"` lists the partitions with their time limits, cores, memory in MB and GPUs'
    )


def refusal(said: str, asked: str) -> str:
    """Message about a first job that could not be submitted, given sbatch's output and ``asked_for``."""
    if not is_unreachable(said):
        return f"hydra.launcher.slurm: sbatch refused the job: {said}. {asked}"
    return (
        f"hydra.launcher.executor=slurm: sbatch does not reach Slurm's controller: {said}. The environment's "
        f"SLURM_CONF is {os.environ.get('SLURM_CONF') or 'not set'}; see that `sinfo` is answered in this shell and "
        "re-run the command, or use hydra.launcher.executor=local (in combine: executor=local)"
    )


def waiting(job: str, reason: str, asked: str) -> str | None:
    """Message about a job that waits for an unusual reason; None for a usual one."""
    if reason in _USUAL:
        return None
    if reason not in _FOR_EVER:
        return f"Slurm job {job} waits: {reason}"
    return (
        f"hydra.launcher.slurm: job {job} waits ({reason}) and will never start: its partition or its nodes do not "
        f"have what it asks for. {asked}. Press Ctrl-C and start again with other values"
    )


def end_of(job: str, state: str) -> JobEnd | None:
    """How a job in this state ended; None: it has not."""
    if state not in _ENDS:
        return None
    fate, note = _ENDS[state]
    return JobEnd(fate, f"Slurm job {job} ended as {state}" + (f" ({note})" if note else ""))


# The process of a job.


def main(task_file: str) -> int:
    """Run a task and return the job's exit code: 0 also for one that was asked to stop, and is to be resumed.

    Signals arrive before the time limit (SIGUSR2), when the job is preempted or cancelled (SIGTERM) and when the sweep
    stops (SIGINT). They reach every process of the job's group, so that the task, which is to save, has its own.
    """
    share_memory()
    process = TaskProcess(Path(task_file))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: process.stop())
    code = process.wait()
    if code == INTERRUPTED:
        return 0
    return code if code >= 0 else 128 - code


def share_memory() -> None:
    """Say to this job's processes how many jobs of so many cores its node has room for: each has cores of its own."""
    own = int(os.environ.get("SLURM_CPUS_ON_NODE") or 0)
    if own:
        os.environ[SHARE_MEMORY] = str(max(1, (os.cpu_count() or 1) // own))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
