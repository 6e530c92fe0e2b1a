"""Ray's side of a task, without Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kimi_audio_ft.sweep.cluster.ray import worker_function

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
