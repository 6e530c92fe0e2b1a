"""Sweeps whose packs are jobs of a real Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.launcher import SlurmConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.runtime.time_limit import TimeLimit
from kimi_audio_ft.sweep.cluster.slurm import Slurm
from kimi_audio_ft.sweep.events import Event, EventReader, Interrupted
from kimi_audio_ft.sweep.plan import Task, Unit
from kimi_audio_ft.sweep.supervisor import NotNow, Supervisor
from kimi_audio_ft.sweep.task import sweep_environment
from tests.faults.sweeps import Running, until
from tests.forkserver import fork_command
from tests.sameness import assert_same_results
from tests.trials_json import hypotheses_of, values

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm")]

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = "kimi_audio_ft.train"
# Seconds that Slurm may take to answer; a loaded machine is slow.
PATIENCE = 600
# 60 optimizer steps, which leave time to interrupt them; checkpoints only when asked to stop.
SWEEP = (
    *("data=manifests", "data.features=none", "data.batch_size=2", "model.dtype=float32"),
    *("trainer.max_epochs=20", "trainer.max_steps=60", "trainer.save_every=1000", "trainer.progress=false"),
    *("decoding.max_new_tokens=8", "logger=none", "lora.r=2,4", "decoding.text_temperature=0.0,0.7"),
    *("hydra.sweep.dir=sweep", "hydra.launcher.pack_size=2"),
)
ON_SLURM = ("executor=slurm", "parallel=1", "slurm.poll_seconds=1", "slurm.cpus_per_task=1", "slurm.time_minutes=30")


@dataclass
class Sweep:
    """A sweep in a folder of its own."""

    folder: Path
    manifests: Path

    def start(self, *options: str) -> Running:
        """Start it; in a session of its own, as Ctrl-C reaches a whole group."""
        self.folder.mkdir(exist_ok=True)
        data = [f"data.{name}_manifest={self.manifests / name}.jsonl" for name in ("train", "eval")]
        launcher = [f"hydra.launcher.{option}" for option in options]
        return self._run(TRAIN, "-m", *SWEEP, *data, "hydra/launcher=packed", *launcher)

    def combine(self) -> Running:
        """Start to combine its two adapters."""
        return self._run("kimi_audio_ft.combine", "sweep=sweep", "trials=[0,2]")

    def _run(self, module: str, *arguments: str) -> Running:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "KIMI_AUDIO_FT_STORE": str(self.folder / "store")}
        printed = self.folder / f"printed-{len(list(self.folder.glob('printed-*')))}.log"
        return Running(fork_command(module, arguments, self.folder, environment, printed), printed)

    def events(self, run: str) -> list[dict[str, Any]]:
        """All events so far of the first task of a run."""
        path = self.folder / "sweep" / "packs" / run / "task-0.json.events.jsonl"
        return [event.to_json() for event in EventReader(path).read()]

    def wait_for(self, run: str, what: Callable[[list[dict[str, Any]]], bool], running: Running) -> None:
        """Wait until the events are as wanted."""
        until(lambda: what(self.events(run)) or running.ended() is not None)
        assert what(self.events(run)), running.wait().said

    def results(self) -> dict[str, Any]:
        """``trials.json`` without times, places and commands."""
        return values(self.folder / "sweep")


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def jobs(*options: str) -> list[str]:
    return asked("squeue", "--noheader", "--format=%i", *options).split()


def steps_since_interruption(number: int) -> Callable[[list[dict[str, Any]]], bool]:
    """Whether both adapters were interrupted so many times, and have trained on since."""

    def holds(events: list[dict[str, Any]]) -> bool:
        names = [event["event"] for event in events]
        places = [place for place, name in enumerate(names) if name == "interrupted"]
        return len(places) == 2 * number and "step" in names[max(places, default=-1) + 1 :]

    return holds


def assert_went_on(events: list[dict[str, Any]], interruptions: int) -> None:
    """Every training after an interruption began at the very next step."""
    steps: dict[str, int] = {}
    stops = 0
    for event in events:
        unit = event["unit"]
        if event["event"] == "interrupted":
            assert event["step"] >= steps[unit] > 0
            steps[unit], stops = event["step"], stops + 1
        elif event["event"] == "step":
            assert event["step"] > steps.get(unit, 0)
            steps[unit] = event["step"]
    assert stops == 2 * interruptions
    assert set(steps.values()) == {60}


def test_a_sweep_that_is_interrupted_in_every_way_ends_as_a_local_one(tmp_path: Path, coded_manifests: Path) -> None:
    local = Sweep(tmp_path / "local", coded_manifests)
    reference = local.start()
    there = Sweep(tmp_path / "slurm", coded_manifests)

    stopped = there.start(*ON_SLURM)
    there.wait_for("001", steps_since_interruption(0), stopped)
    os.killpg(stopped.group, signal.SIGINT)
    done = stopped.wait()
    assert done.code == 130, done.said
    first = there.events("001")
    saved = first[-1]["step"]
    assert [event["event"] for event in first[-2:]] == ["interrupted", "interrupted"]
    until(lambda: not jobs())

    again = there.start(*ON_SLURM)
    there.wait_for("002", steps_since_interruption(0), again)
    assert next(event["step"] for event in there.events("002") if event["event"] == "step") > saved > 0
    # As Slurm does shortly before the time limit.
    asked("scancel", "--signal=USR1", *jobs("--states=running"))
    there.wait_for("002", steps_since_interruption(1), again)
    # The node is wanted for something better.
    asked("srun", "--partition=urgent", "--exclusive", "true")
    there.wait_for("002", steps_since_interruption(2), again)
    done = again.wait()
    assert done.code == 0, done.said
    assert_went_on(there.events("002"), interruptions=2)

    done = reference.wait()
    assert done.code == 0, done.said
    assert_same_results(there.results(), local.results())
    combined = [(name, place, place.combine()) for name, place in (("slurm", there), ("local", local))]
    texts = []
    for name, place, running in combined:
        done = running.wait()
        assert done.code == 0 and f"by executor={name}" in done.said, done.said
        texts.append(hypotheses_of(place.folder / "sweep" / "combinations" / "mean"))
    assert texts[0] == texts[1]


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A path with a task's environment and no task: the job's process finds none there, and ends with exit code 2."""
    file = tmp_path / "task-0.json"
    sweep_environment().write(file)
    return file


def queue(**settings: Any) -> Slurm:
    options = {"time_minutes": 1, "signal_seconds": 10, "cpus_per_task": 1, "poll_seconds": 0.1, **settings}
    return Slurm(SlurmConfig(**options), 0)


def end_of(slurm: Slurm, job: str) -> tuple[str, str]:
    found: dict[str, Any] = {}
    until(lambda: found.update(slurm.ended([job])) or found)
    return found[job].fate, found[job].reason


def test_how_jobs_ended_is_told(task_file: Path) -> None:
    slurm = queue()
    failing = slurm.submit(task_file, "failing")
    waiting = queue(extra={"begin": "now+1hour"}).submit(task_file, "waiting")
    slurm.stop([waiting])
    assert end_of(slurm, waiting) == ("cancelled", f"Slurm job {waiting} ended as CANCELLED")
    fate, words = end_of(slurm, failing)
    assert fate == "died" and words.startswith(f"Slurm job {failing} ended as FAILED")
    assert "no such file" in task_file.with_suffix(".log").read_text(encoding="utf-8")
    assert end_of(slurm, "999999") == ("died", "Slurm job 999999 ended as no longer known to Slurm")


def test_hours_that_end_while_a_job_waits_take_it_out_of_the_queue(tmp_path: Path) -> None:
    """The hours are those of the command, the time in the queue included."""
    slurm, heard, seen = queue(extra={"begin": "now+1hour"}), list[Event](), list[str]()
    limit = TimeLimit(1.0, began=0.0, clock=lambda: 3500.0 if seen or seen.extend(jobs()) or seen else 0.0)
    supervisor = Supervisor(slurm, tmp_path, 1, sweep_environment())
    supervisor.run([Task(0, [Unit("a", [TrainConfig()])])], heard.append, lambda: False, limit)
    assert heard == [Interrupted("a")]
    until(lambda: not jobs())


def test_a_job_that_is_refused_names_the_options(task_file: Path) -> None:
    with pytest.raises(
        UserError, match=r"(?s)sbatch refused the job.*invalid partition.*hydra\.launcher\.gpus_per_pack"
    ):
        queue(partition="nowhere").submit(task_file, "refused")


def test_a_job_that_can_never_start_says_so(task_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    slurm = queue(cpus_per_task=1000)
    job = slurm.submit(task_file, "large")
    until(lambda: slurm.ended([job]) or caplog.messages)
    slurm.stop([job])
    [said] = [message for message in caplog.messages if "waits" in message]
    assert f"job {job} waits (PartitionConfig) and will never start" in said and "cpus_per_task=1000" in said
    assert end_of(slurm, job)[0] == "cancelled"


def test_a_controller_that_is_away(
    task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slurm = queue(extra={"begin": "now+1hour"})
    job = slurm.submit(task_file, "waiting")
    there = Path(os.environ["SLURM_CONF"])
    nobody = tmp_path / "slurm.conf"
    ports = there.read_text(encoding="utf-8").replace("SlurmctldPort=16817", "SlurmctldPort=16999")
    nobody.write_text(f"{ports}MessageTimeout=2\n", encoding="utf-8")
    with monkeypatch.context() as away:
        away.setenv("SLURM_CONF", str(nobody))
        with pytest.raises(UserError, match=rf"does not reach Slurm's controller.*SLURM_CONF is {nobody}; see that"):
            queue().submit(task_file, "first")
        with pytest.raises(NotNow):
            slurm.submit(task_file, "later")
        until(lambda: slurm.ended([job]) or "does not answer" in caplog.text)
        assert slurm.ended([job]) == {}
        assert [message.split(":")[0] for message in caplog.messages if "answer" in message] == [
            "Slurm does not answer"
        ]
    slurm.stop([job])
    assert end_of(slurm, job)[0] == "cancelled"
    assert caplog.messages[-1] == "Slurm answers again"
