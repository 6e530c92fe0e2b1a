"""Which options of a trial have another value than the same options of another trial."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from yaml import YAMLError

from kimi_audio_ft.store.signature import flatten
from multirun_analysis.collect import Trial
from multirun_analysis.compare import identity
from multirun_analysis.records import parse_yaml

# Hydra writes block style: a line that begins with a letter begins a section.
NEXT_SECTION = re.compile(r"\n(?=\w)")


@dataclass(frozen=True)
class Difference:
    """One option; None on the side that does not have it."""

    key: str
    here: Any
    there: Any


def config_differences(trial: Trial, other: Trial) -> list[Difference]:
    """Options that differ, in the order of ``trial``'s config."""
    here, there = flat_config(trial), flat_config(other)
    keys = dict.fromkeys([*here, *there])
    return [
        Difference(key, here.get(key), there.get(key))
        for key in keys
        if identity(here.get(key)) != identity(there.get(key))
    ]


def flat_config(trial: Trial) -> dict[str, Any]:
    """The whole config by dotted keys, as Hydra wrote it; the recorded parameters where it wrote none (or half)."""
    path = trial.folder / ".hydra" / "config.yaml"
    try:
        return _written(path.read_text(encoding="utf-8")) | trial.params
    except (OSError, UnicodeDecodeError, YAMLError):
        return dict(trial.params)


def _written(config: str) -> dict[str, Any]:
    """A config file's options, read in parts: the trials of a sweep share most top-level sections, word for word."""
    options: dict[str, Any] = {}
    for section in NEXT_SECTION.split(config):
        options |= _section(section)
    return options


@lru_cache(maxsize=10_000)
def _section(section: str) -> dict[str, Any]:
    """Not to be changed: others get the same one."""
    parsed = parse_yaml(section)
    return flatten(parsed) if isinstance(parsed, dict) else {}
