"""Paths of the project's own files, in a checkout and in an installed wheel, and of the store."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
TINY_MODEL = PACKAGE / "assets" / "tiny"


def project_root() -> Path:
    """The folder that holds ``conf/`` and ``experiments/``: the checkout, or where setup.py put them in the package."""
    in_checkout = (CHECKOUT / "conf").is_dir() and (CHECKOUT / "setup.cfg").is_file()
    return CHECKOUT if in_checkout else PACKAGE / "share"


def config_dir() -> str:
    """Hydra's primary config folder."""
    return str(project_root() / "conf")


def store_root() -> Path:
    """Root of the content-addressed store: ``KIMI_AUDIO_FT_STORE``, or ``outputs/store`` under the working folder."""
    return Path(os.environ.get("KIMI_AUDIO_FT_STORE") or "outputs/store").expanduser().resolve()
