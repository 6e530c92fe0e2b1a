"""Recordings that the option ``audio`` names: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.manifest.folders import RECORDINGS, is_recording, recordings_in


@dataclass(frozen=True)
class Source:
    """A recording to transcribe, by its absolute path.

    name: its path from the folder that was asked for, by which its subtitles are named.
    """

    path: Path
    name: str


def find_recordings(audio: Sequence[str]) -> list[Source]:
    """Recordings in the order of the option, those of a folder or pattern by name; each once.

    Raises:
        ConfigError: one of the values names nothing, or what cannot be read.
    """
    found: dict[str, Source] = {}
    for value in audio:
        try:
            sources = list(_named_by(value))
        except OSError as error:
            rule = f"{error.filename} cannot be read ({error.strerror})"
            raise ConfigError("audio", value, rule, "Check the path and its permissions") from None
        if not sources:
            rule = f"names no recording (files whose names end in {', '.join(RECORDINGS)})"
            raise ConfigError("audio", value, rule, "Check the path")
        for source in sources:
            found.setdefault(os.path.realpath(source.path), Source(source.path.absolute(), source.name))
    return list(found.values())


def _named_by(value: str) -> Iterator[Source]:
    path = Path(value)
    if path.is_dir():
        yield from (Source(each, str(each.relative_to(path))) for each in sorted(recordings_in(path)))
    elif path.is_file():  # whatever it is called: whoever names a file means it
        yield Source(path, path.name)
    elif glob.has_magic(value):
        root = _fixed_part(path)
        found = (Path(name) for name in sorted(glob.glob(value, recursive=True)))  # noqa: PTH207 (may be absolute)
        yield from (Source(each, str(each.relative_to(root))) for each in found if is_recording(each))
    else:
        raise ConfigError("audio", value, "there is no such file or folder", "Check the path")


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part with a wildcard."""
    fixed = []
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)
