"""The demo's sweep on a real Slurm and on a real Ray, undisturbed and disturbed, equals the one on this machine.

``KIMI_AUDIO_FT_DEMO_SWEEPS=1`` runs it: five sweeps of 24 trials, each as long as `make demo`. The lines of
``experiments/clusters.md`` go to the file that ``KIMI_AUDIO_FT_DEMO_SWEEPS_LOG`` names. What `make test` runs each time
are the small sweeps of tests/slurm and of tests/integration/test_ray_sweep.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.lora.pack import BIT_FOR_BIT, WITHIN_ROUNDING
from tests.clusters.demo import Demo, Running, process_of
from tests.faults.sweeps import until
from tests.sameness import assert_same_adapters, assert_same_results, packs_are_exact

ASKED = os.environ.get("KIMI_AUDIO_FT_DEMO_SWEEPS") == "1"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ASKED, reason="five times `make demo`; KIMI_AUDIO_FT_DEMO_SWEEPS=1 runs it"),
]

# Two packs side by side, as on this machine's two cores; a thread each is the demo's own trainer.threads.
OPTIONS = {
    "local": ("hydra.launcher.parallel=2",),
    "slurm": (
        *("hydra.launcher.executor=slurm", "hydra.launcher.parallel=2"),
        *("hydra.launcher.slurm.cpus_per_task=1", "hydra.launcher.slurm.mem_gb=4"),
    ),
    "ray": ("hydra.launcher.executor=ray", "hydra.launcher.parallel=2"),
}
# A training of 216 steps is in its midst, and has no checkpoint yet (trainer.save_every=100).
MIDST = 40


def log(line: str) -> None:
    """Keep a line of the report."""
    place = os.environ.get("KIMI_AUDIO_FT_DEMO_SWEEPS_LOG")
    if place:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass(frozen=True)
class Local:
    """What the sweep on this machine gave."""

    results: dict[str, Any]
    store: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data."""
    return Demo.make_data(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def new_demo(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Demo]:
    """Makes empty places for the sweep on an executor."""
    return lambda executor: Demo.beside(made, tmp_path_factory.mktemp(executor), *OPTIONS[executor])


@pytest.fixture(scope="module")
def local(new_demo: Callable[[str], Demo]) -> Local:
    """The sweep on this machine, once."""
    demo = new_demo("local")
    seconds = demo.start().seconds()
    results, adapters = demo.results(), demo.place.products("adapter")
    assert len(adapters) == 6 and "trials.23.scores.cer" in results and "trials.24.scores.cer" not in results
    log("| executor | disturbed | seconds | the same command again | values of trials.json | adapters |")
    log("|---|---|---:|---:|---|---|")
    log(f"| `{' '.join(demo.options)}` | no | {seconds:.0f} | | {len(results)} | 6 |")
    return Local(results, demo.place.store)


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def in_its_midst(demo: Demo, task: str, running: Running) -> None:
    """Wait until a task has trained for a while."""
    until(lambda: demo.step(task) >= MIDST or running.process.poll() is not None)
    assert running.process.poll() is None, running.said()


def disturb_slurm(demo: Demo, running: Running) -> str:
    """One job gets the signal that Slurm sends before the time limit, the other one is requeued by a person."""
    for task, command in (("task-0", ("scancel", "--signal=USR1")), ("task-1", ("scontrol", "requeue"))):
        in_its_midst(demo, task, running)
        jobs = [line.split("|") for line in asked("squeue", "--noheader", "--format=%i|%j|%Z").splitlines()]
        [job] = [number for number, name, folder in jobs if name.endswith(task) and folder == str(demo.folder)]
        asked(*command, job)
        until(lambda task=task: any(event["event"] == "interrupted" for event in demo.events(task)))
    return "`scancel --signal=USR1` of one job, `scontrol requeue` of the other"


def disturb_ray(demo: Demo, running: Running) -> str:
    """Ray's worker of one task is killed; the task's own process sees that, saves and ends."""
    in_its_midst(demo, "task-0", running)
    process, worker = process_of(demo.task_file("task-0"))
    os.kill(worker, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{process}").exists())
    until(lambda: demo.task_file("task-0.2").is_file() or running.process.poll() is not None)
    assert "tried again in smaller packs" in running.said()
    return "`kill -9` of the Ray worker of one task"


DISTURB = {"slurm": disturb_slurm, "ray": disturb_ray}


@pytest.mark.parametrize("disturbed", [False, True], ids=["undisturbed", "disturbed"])
@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_it_gives_what_it_gives_on_this_machine(
    executor: str, disturbed: bool, local: Local, new_demo: Callable[[str], Demo], request: pytest.FixtureRequest
) -> None:
    if executor == "slurm":
        request.getfixturevalue("slurm")
    else:
        pytest.importorskip("ray")
    demo = new_demo(executor)
    running = demo.start()
    how = DISTURB[executor](demo, running) if disturbed else "no"
    seconds = running.seconds()
    assert_same_results(demo.results(), local.results)
    assert_same_adapters(demo.place.store, local.store)
    made = {kind: demo.place.products(kind) for kind in ("adapter", "transcript")}

    again = demo.start().seconds()
    reused = {name: value for name, value in local.results.items() if not name.endswith(".train_reused")}
    assert_same_results(demo.results("train_reused"), reused)
    assert {kind: demo.place.products(kind) for kind in made} == made, "nothing is made twice"
    equal = f"{len(local.results)} equal | 6 {BIT_FOR_BIT if packs_are_exact() else WITHIN_ROUNDING}"
    log(f"| `{' '.join(demo.options)}` | {how} | {seconds:.0f} | {again:.0f} | {equal} |")
