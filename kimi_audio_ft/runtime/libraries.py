"""Libraries that print what says nothing to our users, or that are imported only when they are needed."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

# transformers 5.20 renames these and PEFT 0.21 still calls the old names.
_RENAMED = ".*gradient_checkpointing.*deprecated"
_TREESPEC = ".*LeafSpec.*deprecated"
# PyTorch 2.14 renames these and DeepSpeed 0.19 still calls the old names.
_COLLECTIVES = r".*torch\.distributed\..*is deprecated"
# Lightning's advice to whoever has Slurm installed; our processes are our own.
_SRUN = ".*`srun` command is available"


def quiet_libraries() -> None:
    """Silence Lightning's hardware lines, advertisements and notes, lines for HTTP requests, and renamed names."""
    # Not "pytorch_lightning" itself, whose level is set when it is imported.
    for name in (
        "pytorch_lightning.utilities.rank_zero",
        "pytorch_lightning.trainer.connectors.checkpoint_connector",
        "lightning_fabric.utilities.distributed",
        "httpx",  # a line for each request
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (_RENAMED, _TREESPEC, _COLLECTIVES, _SRUN):
        warnings.filterwarnings("ignore", message=message)


def leave_out_bitsandbytes() -> None:
    """Make bitsandbytes look as if it were not installed, unless it has been imported already."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("bitsandbytes", None)  # Python's mark of a module that cannot be imported


def bring_back_bitsandbytes() -> None:
    """Let bitsandbytes be imported, which a 4-bit base needs; PEFT looks again whether it is installed."""
    if sys.modules.get("bitsandbytes", sys) is not None:
        return
    del sys.modules["bitsandbytes"]
    if "peft" in sys.modules:
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available

        is_bnb_available.cache_clear()
        is_bnb_4bit_available.cache_clear()
