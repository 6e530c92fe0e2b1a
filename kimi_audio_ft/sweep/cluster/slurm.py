"""Tasks as Slurm jobs, through submitit."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.launcher import SlurmConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.supervisor import JobEnd, NotNow
from kimi_audio_ft.sweep.task import INTERRUPTED, TaskProcess, python_path

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
        self.request = JobRequest(settings, self.gpus)
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
        return UserError(self.request.refused(said))

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
                unusual = self.request.waits(job, reason)
                if unusual:
                    log.warning("%s", unusual)
        gone = [job for job in jobs if job not in states]
        return states | (_recorded(gone) if gone else {})

    def _say_silent(self, error: _NoAnswer | None) -> None:
        """Log once that Slurm does not answer, and once that it does again."""
        if error is not None and not self._silent:
            log.warning("Slurm does not answer: %s. Its jobs may well run on; it is polled until it does", error)
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
        """Run the task; the exit code says whether it is to be resumed."""
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
        if being_preempted(_run_or_complain("scontrol", "show", "job", job)):
            _run_or_complain("scontrol", "requeue", job)
        sys.exit(INTERRUPTED)


def being_preempted(job: str) -> bool:
    """Whether ``scontrol show job`` says so; a job that is cancelled or requeued by a person is COMPLETING already."""
    words = dict(word.split("=", 1) for word in job.split() if "=" in word)
    return words.get("JobState") == "RUNNING" and words.get("PreemptTime", "None") != "None"


def _run_or_complain(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout


# Messages about Slurm: why it refused a job, why a job waits, how one ended, and what to do.

_DIED = ("COMPLETED", "FAILED", "OUT_OF_MEMORY", "DEADLINE")
_LOST = ("TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED")
_REMEDIES = {
    "OUT_OF_MEMORY": "raise hydra.launcher.slurm.mem_gb",
    "TIMEOUT": "raise hydra.launcher.slurm.signal_seconds if it had no time to save",
    "FAILED": "if Slurm cannot write logs there, it says nothing more",
}
# Usual reasons to wait; a person should be told of others.
_USUAL = ("None", "Priority", "Resources", "BeginTime", "Cleaning", "JobArrayTaskLimit")
# Reasons that do not pass by themselves: the job asks for what the partition or its nodes do not have.
_FOR_EVER = ("PartitionConfig", "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints")
# What Slurm's commands print when they do not reach the controller, or do not know where it is.
_UNREACHABLE = ("Unable to contact slurm controller", "configuration source", "configuration file")
_LIST = 'sinfo --format="%P %l %c %m %G"'


def is_unreachable(said: str) -> bool:
    """Whether a command of Slurm's failed because it did not reach the controller."""
    return any(words in said for words in _UNREACHABLE)


@dataclass(frozen=True)
class JobRequest:
    """Resources that every job of a sweep asks for. gpus: of one job."""

    settings: SlurmConfig
    gpus: int

    def refused(self, said: str) -> str:
        """Message about a first job that could not be submitted, given sbatch's output."""
        if is_unreachable(said):
            conf = os.environ.get("SLURM_CONF")
            return (
                f"hydra.launcher.executor=slurm: sbatch does not reach Slurm's controller: {said}. The environment's "
                f"SLURM_CONF is {conf or 'not set'}; see that `sinfo` is answered in this shell and re-run the "
                "command, or use hydra.launcher.executor=local"
            )
        return f"hydra.launcher.slurm: sbatch refused the job: {said}. {self._all()}"

    def waits(self, job: str, reason: str) -> str | None:
        """Message about a job that waits for an unusual reason; None for a usual one."""
        if reason in _USUAL:
            return None
        if reason not in _FOR_EVER:
            return f"Slurm job {job} waits: {reason}"
        return (
            f"hydra.launcher.slurm: job {job} waits ({reason}) and will never start: its partition or its nodes do not "
            f"have what it asks for. {self._all()}. Press Ctrl-C and start again with other values"
        )

    def _all(self) -> str:
        names = ("partition", "account", "qos", "time_minutes", "mem_gb", "cpus_per_task")
        values = {name: value for name in names if (value := getattr(self.settings, name)) is not None}
        values |= {f"extra.{name}": value for name, value in self.settings.extra.items()}
        asked = ", ".join(f"{name}={value}" for name, value in values.items())
        return (
            f"Asked for were {asked} and {self.gpus} GPUs (hydra.launcher.gpus_per_pack); `{_LIST}` lists the "
            "partitions with their time limits, cores, memory in MB and GPUs"
        )


def end_of(job: str, state: str) -> JobEnd | None:
    """How a job in this state ended; None: it has not."""
    remedy = _REMEDIES.get(state)
    reason = f"Slurm job {job} ended as {state}" + (f" ({remedy})" if remedy else "")
    if state in _LOST:
        return JobEnd("lost", reason)
    if state == "CANCELLED":
        return JobEnd("cancelled", reason)
    if state in _DIED or state.startswith("no longer"):
        return JobEnd("died", reason)
    return None
