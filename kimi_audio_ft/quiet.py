"""Other libraries' notes that say nothing to our users."""

from __future__ import annotations

import logging
import warnings

# transformers 5.20 renames these and PEFT 0.21 still calls the old names.
_RENAMED = ".*gradient_checkpointing.*deprecated"
_TREESPEC = ".*LeafSpec.*deprecated"
# PyTorch 2.14 renames these and DeepSpeed 0.19 still calls the old names.
_COLLECTIVES = r".*torch\.distributed\..*is deprecated"
# Lightning's advice to whoever has Slurm installed; our processes are our own.
_SRUN = ".*`srun` command is available"


def quiet_libraries() -> None:
    """Silence Lightning's hardware lines, advertisements and notes on saving, and warnings about names in libraries."""
    # Not "pytorch_lightning" itself, whose level is set when it is imported.
    for name in (
        "pytorch_lightning.utilities.rank_zero",
        "pytorch_lightning.trainer.connectors.checkpoint_connector",
        "lightning_fabric.utilities.distributed",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (_RENAMED, _TREESPEC, _COLLECTIVES, _SRUN):
        warnings.filterwarnings("ignore", message=message)
