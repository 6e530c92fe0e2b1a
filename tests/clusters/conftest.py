"""The one-node Slurm of tests/slurm."""

from tests.slurm.conftest import slurm

__all__ = ["slurm"]
