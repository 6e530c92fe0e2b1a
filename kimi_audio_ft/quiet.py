"""Other libraries' notes that say nothing to our users."""

from __future__ import annotations

import logging
import warnings

# transformers 5.20 renames these and PEFT 0.21 still calls the old names.
_RENAMED = ".*gradient_checkpointing.*deprecated"
_TREESPEC = ".*LeafSpec.*deprecated"


def quiet_libraries() -> None:
    """Silence Lightning's hardware lines and advertisements, and warnings about names between libraries."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (_RENAMED, _TREESPEC):
        warnings.filterwarnings("ignore", message=message)
