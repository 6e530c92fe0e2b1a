"""Doing without bitsandbytes until a 4-bit base wants it.

PEFT imports it wherever it is installed, and it imports PyTorch's compiler: three seconds of every process of a sweep.
"""

from __future__ import annotations

import sys
from typing import Any

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
