"""Adapters of a sweep decoded after its end, by the launcher that made them: on this machine's devices or a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import EvaluationSet, Transcripts, stored_transcripts, transcript_signatures
from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import read_yaml
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.runtime.time_limit import TimeLimit
from kimi_audio_ft.sweep.cluster.executor import make_units
from kimi_audio_ft.sweep.events import Decoding, Event, Failed
from kimi_audio_ft.sweep.plan import Unit

# Seconds between two lines about the progress.
_EVERY = 10.0
# What Hydra leaves in a sweep's folder.
_MULTIRUN = "multirun.yaml"


@dataclass(frozen=True)
class Asked:
    """An evaluation set under one decoding setting.

    key: signature of the adapter; ``BASE`` for the base alone. name: whose texts they are, for messages. config: of a
    trial, with this set to evaluate. adapter: folder of an adapter that is no product of the store.
    """

    key: str
    name: str
    config: TrainConfig
    evaluation: EvaluationSet
    adapter: Path | None = None

    @cached_property
    def transcripts(self) -> list[str]:
        """Signatures of the transcripts, one per repeat."""
        request = DecodingRequest(self.config.decoding, self.config.seed)
        return transcript_signatures(self.evaluation, request, None if self.key == BASE else self.key)

    def found(self) -> Transcripts:
        """The transcripts after ``decode_missing``; DataError: the store has them no more."""
        transcripts = stored_transcripts(self.transcripts)
        if transcripts is None:
            problem = f"its texts by {self.name} are not in the store, though they were decoded just now"
            raise DataError(self.evaluation.conversations.called, problem, "Run the same command again")
        return transcripts


def decode_missing(
    sweep: Path,
    folder: Path,
    asked: Sequence[Asked],
    why: str,
    limit: TimeLimit | None = None,
    executor: str | None = None,
) -> None:
    """Have the transcripts made that the store lacks, by the launcher of a sweep.

    Args:
        sweep: folder of the sweep. folder: where its tasks and their log lie. why: of the messages.
        limit: of the sweep's time. executor: as of ``launcher_of``.

    Raises:
        UserError: decoding failed. KeyboardInterrupt: it was asked to stop; what is decoded is kept.
    """
    units = _missing(asked)
    if not units:
        return
    settings = launcher_of(sweep, executor)
    print(f"{why}: {_said(asked)}, by executor={settings.executor}{_in_place_of(sweep, executor)}")
    progress = _Progress({one.key: one.name for one in asked}, why)
    stopped = make_units(settings, units, set(), folder, progress.take, limit=limit)
    if stopped is not None:
        raise stopped
    if progress.failed:
        failed = progress.failed[0]
        reason = failed.failure.message or failed.failure.error_type
        raise UserError(f"{sweep}: {why}: {progress.name(failed.unit)} failed: {reason}")


def launcher_of(folder: Path, executor: str | None = None) -> LauncherConfig:
    """The launcher that a sweep was started with; the default one where that is not recorded, or is another's.

    executor: ``hydra.launcher.executor`` in place of the sweep's; then it says how many tasks and GPUs there are, too.
    """
    launcher, settings = _recorded(folder), LauncherConfig()
    if launcher.get("_target_") == LauncherConfig._target_:
        try:
            found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LauncherConfig), dict(launcher)))
        except OmegaConfBaseException as error:
            problem = f"hydra.launcher cannot be used ({error})"
            raise DataError(folder / _MULTIRUN, problem, "Run the sweep again") from None
        assert isinstance(found, LauncherConfig)
        settings = found
    if executor in (None, settings.executor):
        return settings
    return replace(settings, executor=executor, parallel="auto", gpus_per_pack="auto")


def _recorded(folder: Path) -> Mapping[str, Any]:
    """``hydra.launcher`` of a sweep; empty where that is not recorded."""
    path = folder / _MULTIRUN
    written = read_yaml(path, "Run the sweep again") if path.is_file() else None
    hydra = written.get("hydra") if isinstance(written, Mapping) else None
    launcher = hydra.get("launcher") if isinstance(hydra, Mapping) else None
    return launcher if isinstance(launcher, Mapping) else {}


def _in_place_of(folder: Path, executor: str | None) -> str:
    """That a sweep was started with a launcher that cannot decode, unless somebody has named the executor."""
    target = _recorded(folder).get("_target_", LauncherConfig._target_)
    is_ours = executor is not None or target == LauncherConfig._target_
    return "" if is_ours else f" in place of the sweep's launcher {target}, which does not decode"


def _missing(asked: Sequence[Asked]) -> list[Unit]:
    """Units of what the store lacks: adapters, and the base alone, each with the sets and settings to decode."""
    units: dict[str, Unit] = {}
    for one in asked:
        if stored_transcripts(one.transcripts) is None:
            adapter = None if one.adapter is None else str(one.adapter.absolute())
            unit = units.setdefault(one.key, Unit(one.key, [], adapter=adapter))
            unit.jobs.append(one.config)
            unit.evaluations.append(one.evaluation.identity)
    return list(units.values())


def _said(asked: Sequence[Asked]) -> str:
    sets = [one.evaluation.conversations for one in asked]
    return "; ".join(dict.fromkeys(f"{found.called} ({len(found)} utterances)" for found in sets))


class _Progress:
    """Lines about what is decoded, in place of a table: there are a few units at most."""

    def __init__(self, names: Mapping[str, str], why: str) -> None:
        self._names, self._why, self._told = names, why, time.monotonic()
        self.failed: list[Failed] = []

    def name(self, unit: str) -> str:
        return self._names[unit]

    def take(self, event: Event) -> None:
        """Take in an event of a unit."""
        if isinstance(event, Failed):
            self.failed.append(event)
        elif isinstance(event, Decoding) and time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            print(f"{self._why}: {self.name(event.unit)}, {event.done} of {event.total} utterances")
