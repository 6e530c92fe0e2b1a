"""Which options of a trial have another value than the same options of another trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.signature import flatten
from multirun_analysis.collect import Trial
from multirun_analysis.compare import identity
from multirun_analysis.records import read_yaml


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
        config = read_yaml(path) if path.is_file() else None
    except DataError:
        config = None
    return flatten(config) | trial.params if isinstance(config, dict) else dict(trial.params)
