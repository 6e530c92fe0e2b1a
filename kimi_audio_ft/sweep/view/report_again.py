"""The report of a sweep that was run again and has found everything as it was: left as it is, and shown again.

``.report.json`` in the sweep's folder says what the report was made of: every file in that folder by its content; the
code, as Python tells whether a module has changed; options; the terminal; and the recordings that can be played in it.
A report of anything else, or one that was changed, is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import write_json
from kimi_audio_ft.paths import PACKAGE, project_root, store_root
from kimi_audio_ft.store.digests import state_of
from kimi_audio_ft.store.signature import digest_of
from kimi_audio_ft.sweep_folder import MADE_OF, REPORT, trial_folders

_ANALYSIS = PACKAGE.parent / "multirun_analysis"
_NOT_READ = (*REPORT, MADE_OF, ".log", ".lock", ".running")


@dataclass(frozen=True)
class MadeReport:
    """A report as it was made.

    made_of: digest of what it was made of. printed: what the terminal has shown of it. files, recordings: paths and
    states of its own files, and of the recordings that it was to play (None: there was none).
    """

    made_of: str
    printed: str
    files: list[Any]
    recordings: list[Any]


def digest_of_sweep(folder: Path, options: Sequence[Any], console: Console) -> str:
    """Of all that the report of the sweep in a folder is made of, but for the recordings."""
    places = [folder, *(trial for trial in trial_folders(folder) if not trial.is_relative_to(folder))]
    files = [file for place in places for file in _files(place) if not file.name.endswith(_NOT_READ)]
    code = [file for place in (PACKAGE, _ANALYSIS, project_root() / "conf") for file in _files(place)]
    return digest_of(
        {
            "files": [[str(file), _content(file)] for file in files],
            "code": [sys.version, _states([Path(sysconfig.get_path("purelib")), *code])],
            "options": [*options, str(folder.absolute()), str(Path.cwd()), str(store_root())],
            "adapters": _states([store_root() / "adapter"]),
            "next": sorted(path.name for path in folder.absolute().parent.glob(f"{folder.absolute().name}-next*")),
            "console": [console.width, console.is_terminal, console.color_system, console.encoding],
        }
    )


def made_report(folder: Path, made_of: str) -> MadeReport | None:
    """The report in a folder if it was made of this, and its files and recordings are as they were then."""
    with suppress(OSError, ValueError, TypeError):
        made = MadeReport(**json.loads((folder / MADE_OF).read_text(encoding="utf-8")))
        known = [*made.files, *made.recordings]
        if made.made_of == made_of and _states(Path(path) for path, _ in known) == known:
            return made
    return None


def keep_report(folder: Path, made_of: str, printed: str, recordings: Iterable[Path]) -> None:
    """Remember a report that was made now; a disk that is full costs no more than this."""
    files = _states(folder / name for name in REPORT)
    with suppress(OSError, UserError):
        write_json(folder / MADE_OF, asdict(MadeReport(made_of, printed, files, _states(recordings))))


def _files(place: Path) -> Iterator[Path]:
    """All below a folder, but for what was moved aside, W&B's, and what Python has compiled."""
    for folder, inner, names in os.walk(place):
        inner[:] = sorted(
            name for name in inner if not name.startswith((".before-", "wandb", ".wandb-", "__pycache__"))
        )
        yield from (Path(folder, name) for name in sorted(names))


def _content(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def _states(paths: Iterable[Path]) -> list[Any]:
    """Path and state of each, as JSON has them."""
    return [[str(path), _state(path)] for path in paths]


def _state(path: Path) -> list[int] | None:
    with suppress(OSError):
        return list(state_of(path.stat()))
    return None
