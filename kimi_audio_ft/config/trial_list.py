"""``hydra.sweeper.trials``: a CSV or YAML file that lists the trials of a sweep which are no product of values."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yaml import YAMLError

from kimi_audio_ft.config.command_line import assigned, option_of, readable_cell
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.files import parse_yaml
from kimi_audio_ft.paths import expanded

_OPTION = "hydra.sweeper.trials"
_AS_CSV = "Its first line names options, every other line is a trial: `lora.r,optim.lr`, then `2,1e-3`"
_AS_YAML = "It is a list of trials: `- {lora.r: 2, optim.lr: 1e-3}`"


def with_trials(jobs: Sequence[Sequence[str]], file: str | None) -> list[list[str]]:
    """Every trial that the file lists with the options of every job, those of the command line; without one the jobs.

    Raises:
        ConfigError: there is no such file, or an option is given in both.
        DataError: the file lists no trials.
    """
    if file is None:
        return [list(job) for job in jobs]
    trials = _read(file)
    given = {option_of(override) for job in jobs for override in job}
    both = sorted(given & {option_of(override) for trial in trials for override in trial})
    if both:
        raise ConfigError(_OPTION, file, f"gives {both[0]}, and so does the command", "Leave it out of one of them")
    return [[*trial, *job] for trial in trials for job in jobs]


def _read(file: str) -> list[list[str]]:
    """The overrides of each trial."""
    path = expanded(file)
    if not path.is_file():
        raise ConfigError(_OPTION, file, "must name a CSV or YAML file, and there is no such file", "Check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(path, "is not in UTF-8", "Save it as UTF-8") from None
    trials = _of_yaml(path, text) if path.suffix in (".yaml", ".yml") else _of_csv(path, text)
    if not trials:
        raise DataError(path, "lists no trial", _AS_YAML if path.suffix in (".yaml", ".yml") else _AS_CSV)
    return trials


def _of_csv(path: Path, text: str) -> list[list[str]]:
    """A cell is written as on the command line; an empty one leaves the option as it is."""
    reader = csv.reader(text.splitlines())
    names = [name.strip() for name in next(reader, [])]
    if "" in names or len({*names}) < len(names):
        raise DataError(path, f"its first line is {','.join(names)!r}", _AS_CSV, line=1)
    trials = []
    for cells in reader:
        if any(cell.strip() for cell in cells):
            if len(cells) != len(names):
                problem = f"has {len(cells)} cells, the first line {len(names)}"
                raise DataError(path, problem, 'A cell with a comma wants quotes: "[1,2]"', line=reader.line_num)
            pairs = zip(names, map(str.strip, cells), strict=True)
            trials.append([readable_cell(name, cell) for name, cell in pairs if cell])
    return trials


def _of_yaml(path: Path, text: str) -> list[list[str]]:
    try:
        found: Any = parse_yaml(text)
    except YAMLError as error:
        raise DataError(path, f"cannot be read as YAML ({' '.join(str(error).split())})", _AS_YAML) from None
    if not isinstance(found, list | None) or not all(isinstance(trial, dict) and trial for trial in found or []):
        raise DataError(path, "is no list of trials with options", _AS_YAML)
    return [[assigned(name, value) for name, value in trial.items()] for trial in found or []]
