"""Recordings in folders, by the endings of their names."""

from __future__ import annotations

from pathlib import Path

# Collections have notes and licences beside their recordings.
RECORDINGS = (
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"),
    *(".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr", ".sph"),
)
"""Endings of files that are taken for recordings."""


def recordings_in(folder: Path) -> list[Path]:
    """Recordings in a folder and those inside it, in no order.

    All but hidden files, such as those that macOS puts beside the files of a copied folder.
    """
    return [path for path in folder.rglob("*") if is_recording(path)]


def is_recording(path: Path) -> bool:
    """Whether there is a file that is named like a recording and is not hidden."""
    return path.suffix.lower() in RECORDINGS and not path.name.startswith(".") and path.is_file()
