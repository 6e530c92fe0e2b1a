"""What a batch of jobs needs and the store lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from kimi_audio_ft import store
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.engine.jobs import Job
from kimi_audio_ft.engine.work import Unit
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.store.signature import canonical
from kimi_audio_ft.transcripts import Request, transcript_signatures
from kimi_audio_ft.trial import Trial


def lacking(jobs: Sequence[Job]) -> tuple[list[Unit], set[str]]:
    """Units to be made: adapters to be trained, and what they and the base alone have to decode.

    Returns:
        The units in the order of the first job of each, the base first; and the keys of those that must be trained.
    """
    wanted: dict[str, dict[str, TrainConfig]] = {}
    untrained: set[str] = set()
    for job in jobs:
        if job.settings is None or job.key is None:
            continue
        if store.find("adapter", job.key) is None:
            untrained.add(job.key)
            _want(wanted, job.key, job.settings)
        elif _lacks(job.settings, job.key):
            _want(wanted, job.key, job.settings)
        if job.settings.baseline and _lacks(job.settings, BASE):
            _want(wanted, BASE, job.settings)
    units = [Unit(key, list(configs.values())) for key, configs in wanted.items()]
    return sorted(units, key=lambda unit: unit.key != BASE), untrained


def _want(wanted: dict[str, dict[str, TrainConfig]], key: str, config: TrainConfig) -> None:
    decoded = canonical([asdict(config.data), asdict(config.decoding), config.seed])
    wanted.setdefault(key, {}).setdefault(decoded, config)


def _lacks(config: TrainConfig, key: str) -> bool:
    trial = Trial(config)
    adapter = None if key == BASE else key
    request = Request(config.decoding, config.seed)
    wanted = transcript_signatures(trial.base, trial.evaluation, request, adapter)
    return any(store.find("transcript", name) is None for name in wanted)
