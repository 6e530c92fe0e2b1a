"""Paths of the project's own files, in a checkout and in an installed wheel, and of the store."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from kimi_audio_ft.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
TINY_MODEL = PACKAGE / "assets" / "tiny"


def project_root() -> Path:
    """The folder with ``conf/``, ``experiments/`` and ``docs/``: the checkout, or in the package, by setup.py."""
    in_checkout = (CHECKOUT / "conf").is_dir() and (CHECKOUT / "setup.cfg").is_file()
    return CHECKOUT if in_checkout else PACKAGE / "share"


def config_dir() -> str:
    """Hydra's primary config folder."""
    return str(project_root() / "conf")


def data_page() -> str:
    """Path of the page about manifests, for messages: from the working folder where it lies below that."""
    page = project_root() / "docs" / "data.md"
    return str(page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page)


def store_root() -> Path:
    """Root of the content-addressed store: ``KIMI_AUDIO_FT_STORE``, or ``outputs/store`` under the working folder."""
    root = expanded(os.environ.get("KIMI_AUDIO_FT_STORE") or "outputs/store")
    if str(root).startswith("~"):
        raise ConfigError("KIMI_AUDIO_FT_STORE", str(root), "there is no such home folder", "Write the whole path")
    return _resolved(str(root), os.getcwd())  # noqa: PTH109 - every look-up asks


@lru_cache
def _resolved(path: str, folder: str) -> Path:
    """A path of the working folder, its links followed once a process."""
    return Path(folder, path).resolve()


def expanded(path: str | Path) -> Path:
    """The path with ``~`` as the home folder; as written where there is none, so that whoever opens it names it."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises a RuntimeError


def share_with_group() -> None:
    """Let this process give its files the store's permissions for the group: members of one shared store make it."""
    with suppress(OSError, ConfigError):  # whoever looks into the store says what is wrong
        group = store_root().stat().st_mode & 0o070
        umask = os.umask(0)
        os.umask(umask & ~group)
