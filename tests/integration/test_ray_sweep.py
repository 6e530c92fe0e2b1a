"""Sweeps whose packs are tasks of a real Ray, started on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kimi_audio_ft.config.launcher import RayConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.events import Event, Interrupted, Step
from kimi_audio_ft.sweep.plan import Task, Unit
from kimi_audio_ft.sweep.supervisor import Supervisor
from kimi_audio_ft.sweep.task import sweep_environment
from kimi_audio_ft.trial import Trial
from tests.integration.conftest import POINTS, NewPlace, Workplace
from tests.sameness import assert_same_results
from tests.trials_json import hypotheses_of, values

pytest.importorskip("ray")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """Ray is started by the first test that wants it; the others find it running.

    Its workers give way to other processes, of which a test run has enough: their tasks would not get a turn.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield
    import ray

    ray.shutdown()


def test_a_sweep_on_ray_gives_what_a_local_one_gives(first: Path, place: Workplace, new_workplace: NewPlace) -> None:
    """Its combination of adapters too."""
    local, place = place, new_workplace()
    options = ("hydra/launcher=packed", "hydra.launcher.executor=ray", "hydra.launcher.pack_size=2")
    sweep = place.sweep("sweep", *POINTS, *options, "hydra.launcher.parallel=2")
    assert_same_results(values(sweep), values(first))
    assert len(list((sweep / "packs" / "001").glob("task-[0-9].json"))) >= 2
    for there, folder, name in ((place, sweep, "ray"), (local, first, "local")):
        assert f"by executor={name}" in there.succeed("kimi_audio_ft.combine", f"sweep={folder}", "trials=[0,2]")
    mean = Path("combinations", "mean")
    assert hypotheses_of(sweep / mean) == hypotheses_of(first / mean)


def test_a_task_that_is_stopped_on_ray_saves_and_goes_on(
    tmp_path: Path, trial_config: Callable[..., TrainConfig]
) -> None:
    from kimi_audio_ft.sweep.cluster.ray import RayCluster

    config = trial_config(trainer={"max_epochs": 5000, "max_steps": 1500, "save_every": 10000})
    cluster = RayCluster(RayConfig(), 0)
    assert cluster.per_machine == cluster.slots > 0
    supervisor = Supervisor(cluster, tmp_path, environment=sweep_environment())
    key = Trial(config).plan.adapter
    task = Task(0, [Unit(key, [config])], pack_size=1)

    def steps_until_stopped() -> tuple[int, int]:
        """The first and the last step of a run that is stopped as soon as it has told of one."""
        heard: list[Event] = []
        supervisor.run([task], heard.append, lambda: any(isinstance(event, Step) for event in heard))
        last = heard[-1]
        assert isinstance(last, Interrupted) and last.step is not None
        return next(event.step for event in heard if isinstance(event, Step)), last.step

    _, before = steps_until_stopped()
    # Steps are told a few times per second, so that the first one told need not be the first one taken.
    first, last = steps_until_stopped()
    assert 0 < before < first <= last


def test_what_ray_does_not_have_is_refused_at_once() -> None:
    from kimi_audio_ft.sweep.cluster.ray import RayCluster

    with pytest.raises(UserError, match=r"a pack asks for .*'tpu': 1.*cluster has .*'tpu': 0"):
        RayCluster(RayConfig(resources={"tpu": 1}), 0)
