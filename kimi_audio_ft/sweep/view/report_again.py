"""The report of a sweep that was run again and has found everything as it was: left as it is, and shown again.

``.report.json`` in the sweep's folder says what the report was made of: the records that it reads of the sweep and its
trials, by their content; the code, as Python tells whether a module has changed; options; the terminal; the recordings
that can be played in it; and which of its adapters the store has. A report of anything else, or one that was changed,
is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import write_json
from kimi_audio_ft.paths import PACKAGE, project_root, store_root
from kimi_audio_ft.store.digests import state_of
from kimi_audio_ft.store.signature import digest_of
from kimi_audio_ft.sweep_folder import (
    COMBINATIONS_RECORD,
    HALVING,
    LEDGER,
    MADE_OF,
    RECORDS,
    REPORT,
    UNSEEN_RECORD,
    hydras_folder,
    trial_folders,
)
from kimi_audio_ft.text import printable_lines

_ANALYSIS = PACKAGE.parent / "multirun_analysis"
# What a report reads in the sweep's folder, and in Hydra's own folder of each trial, wherever that lies.
_OF_SWEEP = (LEDGER, HALVING, "multirun.yaml", UNSEEN_RECORD, COMBINATIONS_RECORD)
_OF_HYDRA = ("config.yaml", "hydra.yaml", "overrides.yaml")
# Colours and bold print, as a terminal is told to show them.
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")


@dataclass(frozen=True)
class MadeReport:
    """A report as it was made.

    made_of: digest of what it was made of. printed: what the terminal has shown of it. files, recordings: paths and
    states of its own files, and of the recordings that it was to play (None: there was none). adapters: folders of its
    trials' adapters, and whether they were there.
    """

    made_of: str
    printed: str
    files: list[Any]
    recordings: list[Any]
    adapters: list[Any]


def digest_of_sweep(folder: Path, options: Sequence[Any], console: Console) -> str:
    """Of all that the report of the sweep in a folder is made of, but for the recordings and the store's adapters."""
    records = [folder / name for name in _OF_SWEEP]
    for trial in trial_folders(folder):
        records += [*(trial / name for name in RECORDS), *(hydras_folder(trial) / name for name in _OF_HYDRA)]
    code = [file for place in (PACKAGE, _ANALYSIS, project_root() / "conf") for file in _files(place)]
    parent, further = folder.absolute().parent, f"{folder.resolve().name}-next"
    return digest_of(
        {
            "records": [[str(path), _content(path)] for path in records],
            "code": [sys.version, _states([Path(sysconfig.get_path("purelib")), *code])],
            "options": [*options, str(folder.absolute()), str(Path.cwd()), str(store_root())],
            "next": sorted(path.name for path in parent.iterdir() if path.name.startswith(further)),
            "console": [
                *(console.width, console.is_terminal, console.encoding),
                *(console.color_system, console.no_color),
            ],
        }
    )


def made_report(folder: Path, made_of: str) -> MadeReport | None:
    """The report in a folder if it was made of this, and its files, recordings and adapters are as they were then."""
    with suppress(OSError, ValueError, TypeError):
        made = MadeReport(**json.loads((folder / MADE_OF).read_text(encoding="utf-8")))
        known = [*made.files, *made.recordings]
        if (
            made.made_of == made_of
            and _states(Path(path) for path, _ in known) == known
            and _present(Path(path) for path, _ in made.adapters) == made.adapters
        ):
            return replace(made, printed=_harmless(made.printed))
    return None


def keep_report(folder: Path, made_of: str, printed: str, recordings: Iterable[Path], adapters: Iterable[Path]) -> None:
    """Remember a report that was made now; a disk that is full costs no more than this."""
    files = _states(folder / name for name in REPORT)
    made = MadeReport(made_of, printed, files, _states(recordings), _present(adapters))
    with suppress(OSError, UserError):
        write_json(folder / MADE_OF, asdict(made))


def _harmless(printed: str) -> str:
    """Without what else a terminal obeys: whoever may write in the sweep's folder may have changed it."""
    pieces = _STYLE.split(printed)  # every other one is a style
    return "".join(piece if place % 2 else printable_lines(piece) for place, piece in enumerate(pieces))


def _files(place: Path) -> Iterator[Path]:
    """All below a folder, but for what Python has compiled."""
    for folder, inner, names in os.walk(place):
        inner[:] = sorted(name for name in inner if name != "__pycache__")
        yield from (Path(folder, name) for name in sorted(names))


def _content(path: Path) -> str | None:
    """Digest of a file that the report reads whole anyway; None where there is none."""
    with suppress(OSError):
        if path.is_file():  # no pipe, which may wait for ever
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def _present(folders: Iterable[Path]) -> list[Any]:
    return [[str(folder), folder.is_dir()] for folder in folders]


def _states(paths: Iterable[Path]) -> list[Any]:
    """Path and state of each, as JSON has them."""
    return [[str(path), _state(path)] for path in paths]


def _state(path: Path) -> list[int] | None:
    with suppress(OSError):
        return list(state_of(path.stat()))
    return None
