"""Fixtures for the units that write to disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest


@pytest.fixture
def disk_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Path]]:
    """Mounts a real file system of some KiB and puts the store there; skips where mounting is not allowed."""
    with ExitStack() as mounted:

        def mount(kib: int) -> Path:
            place = tmp_path / f"disk_of_{kib}k"
            place.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
            try:
                subprocess.run(command, capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"a small disk cannot be mounted here: {getattr(error, 'stderr', error)}")
            mounted.callback(subprocess.run, ["umount", str(place)], check=True)
            monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(place))
            return place

        yield mount
