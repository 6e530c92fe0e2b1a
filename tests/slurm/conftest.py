"""A real Slurm of one node for the tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path("/tmp/kimi_audio_ft_slurm")
START, STOP = (Path(__file__).parent / name for name in ("start.sh", "stop.sh"))


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """SLURM_CONF of a running one-node Slurm; it is stopped afterwards unless it ran before."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in ("sbatch", "munged", "slurmctld", "slurmd") if shutil.which(name, path=path) is None]
    if absent or os.geteuid() != 0:
        pytest.skip(f"no {', '.join(absent) or 'root'} here; as root, tests/slurm/start.sh installs and starts Slurm")
    ran_before = (FOLDER / "slurmctld.pid").is_file()
    started = subprocess.run([START, FOLDER], capture_output=True, text=True, timeout=300, check=False)
    if started.returncode:
        pytest.skip(f"Slurm does not start here: {started.stdout}{started.stderr}")
    os.environ["SLURM_CONF"] = str(FOLDER / "slurm.conf")
    yield
    if not ran_before:
        subprocess.run([STOP, FOLDER], capture_output=True, timeout=300, check=True)
    del os.environ["SLURM_CONF"]
