"""Ray's side of a task, without Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kimi_audio_ft.config.launcher import RayConfig
from kimi_audio_ft.sweep.cluster.ray import packs_in, resources_of_pack, worker_function

# A worker that can import this package only once the function has put it on its path.
WORKER = """
import pickle, sys

sys.modules["kimi_audio_ft"] = None
run = pickle.load(sys.stdin.buffer)
try:
    run("task.json")
except ImportError as error:
    print(error.name, sys.path[:1])
"""


def test_a_worker_reads_its_function_before_it_can_import_this_package() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    sent = cloudpickle.dumps(worker_function("/somewhere"))
    done = subprocess.run([sys.executable, "-c", WORKER], input=sent, capture_output=True, check=False)
    assert done.stdout.decode().split(" ", 1)[1:] == ["['/somewhere']\n"], done.stderr.decode()


@pytest.mark.parametrize(
    ("settings", "gpus", "held"),
    [
        (RayConfig(), None, 8),
        (RayConfig(), 2, 4),
        (RayConfig(num_cpus_per_pack=4), 1, 4),
        (RayConfig(), 0, 16),
        (RayConfig(resources={"tpu": 1}), 1, 0),
    ],
)
def test_a_node_holds_as_many_packs_as_its_scarcest_resource(settings: RayConfig, gpus: int | None, held: int) -> None:
    node = {"CPU": 16.0, "GPU": 8.0, "memory": 1e11}
    assert packs_in(node, resources_of_pack(settings, gpus, node)) == held
