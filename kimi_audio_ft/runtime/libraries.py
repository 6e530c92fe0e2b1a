"""Other libraries' notes that say nothing to our users."""

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


# --- Doing without bitsandbytes until a 4-bit base wants it.

_NAME = "bitsandbytes"


def leave_out_bitsandbytes() -> None:
    """From now on it is as if it were not installed, unless somebody has imported it already."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault(_NAME, None)  # what Python understands as: do not look for it


def bring_back_bitsandbytes() -> None:
    """It can be imported, and PEFT will ask again whether it is there."""
    if sys.modules.get(_NAME, sys) is not None:
        return
    del sys.modules[_NAME]
    if "peft" in sys.modules:
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available

        is_bnb_available.cache_clear()
        is_bnb_4bit_available.cache_clear()
