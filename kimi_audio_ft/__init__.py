"""Hydra sweeps over LoRA fine-tunings of Kimi-Audio for speech recognition."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

# MKL's strict reproducibility lets packed adapters equal those trained alone bit for bit (see runtime/reproducible.py),
# and costs at most a few per cent. MKL reads this at its first product; other libraries ignore it.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# numpy's products are small here; threads that spin between them take more of the processor than they save.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Hydra finds plugins in the namespace package `hydra_plugins` of every sys.path entry; appending ours works
# for installed, editable and uninstalled runs alike, which mapping the folder in setup.cfg does not.
_PLUGINS = Path(__file__).resolve().parent / "plugin"
if _PLUGINS.is_dir() and str(_PLUGINS) not in sys.path:
    sys.path.append(str(_PLUGINS))


def __getattr__(name: str) -> Any:
    """``kimi_audio_ft.compose``, imported at its first use."""
    if name == "compose":
        return import_module("kimi_audio_ft.cli").compose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
