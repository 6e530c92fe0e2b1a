"""Hydra sweeps over LoRA fine-tunings of Kimi-Audio for speech recognition."""

import os
import sys
from pathlib import Path

__version__ = "0.1.0"

# Hydra finds plugins in the namespace package `hydra_plugins` of every sys.path entry; appending ours works
# for installed, editable and uninstalled runs alike, which mapping the folder in setup.cfg does not.
_PLUGINS = str(Path(__file__).resolve().parent / "plugin")
if os.path.isdir(_PLUGINS) and _PLUGINS not in sys.path:
    sys.path.append(_PLUGINS)
