"""Hydra sweeps over LoRA fine-tunings of Kimi-Audio for speech recognition."""

import sys
from pathlib import Path

__version__ = "0.1.0"

# Hydra finds plugins in the namespace package `hydra_plugins` of every sys.path entry; appending ours works
# for installed, editable and uninstalled runs alike, which mapping the folder in setup.cfg does not.
_PLUGINS = Path(__file__).resolve().parent / "plugin"
if _PLUGINS.is_dir() and str(_PLUGINS) not in sys.path:
    sys.path.append(str(_PLUGINS))
