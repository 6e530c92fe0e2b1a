"""Where the project's own files lie, in a checkout and in an installed wheel."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
TINY_MODEL = PACKAGE / "assets" / "tiny"


def project_root() -> Path:
    """The folder that holds ``conf/`` and ``experiments/``: the checkout, or ``share/`` of the environment."""
    if (CHECKOUT / "conf").is_dir() and (CHECKOUT / "setup.cfg").is_file():
        return CHECKOUT
    shares = [Path(base) / "share" / "kimi_audio_ft" for base in (sys.prefix, site.USER_BASE) if base]
    return next((share for share in shares if (share / "conf").is_dir()), shares[0])


def config_dir() -> str:
    """Hydra's primary config folder."""
    return str(project_root() / "conf")


def store_root() -> Path:
    """Root of the content-addressed store: ``KIMI_AUDIO_FT_STORE``, or ``outputs/store`` under the working folder."""
    return Path(os.environ.get("KIMI_AUDIO_FT_STORE") or "outputs/store").expanduser().resolve()
