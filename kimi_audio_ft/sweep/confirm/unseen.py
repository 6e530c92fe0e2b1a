"""After a sweep: its choice and the base decoded on the test set, the best trials on the guard sets.

Nothing that a trial makes depends on these sets. Their transcripts are products of the store like all others, made by
the sweep's launcher: a repeat decodes nothing, and an interrupted one goes on. The sweep's folder gets
``unseen/record.json`` and, for each set and trial, a folder with the files of a trial.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kimi_audio_ft import store
from kimi_audio_ft.base import require_base
from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.manifests import guard_sets, manifest_paths
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import EvaluationSet, stored_transcripts, transcript_signatures
from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import read_json_object, read_yaml, write_json
from kimi_audio_ft.inputs import Inputs, on_set
from kimi_audio_ft.manifest.hotwords import OPTION, RECORDED, hotwords_facts, read_hotwords
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.runtime.time_limit import TimeLimit
from kimi_audio_ft.scoring import read_options
from kimi_audio_ft.store.looks import look
from kimi_audio_ft.store.usage import note, using
from kimi_audio_ft.sweep.cluster.executor import make_units
from kimi_audio_ft.sweep.events import Decoding, Event, Failed
from kimi_audio_ft.sweep.plan import Unit, written_config
from kimi_audio_ft.sweep_folder import BASE_UTTERANCES, UNSEEN, UNSEEN_RECORD, UTTERANCES
from kimi_audio_ft.trial import scores_of, write_utterances
from multirun_analysis.analysis import Analysis
from multirun_analysis.sweep import Trial

# Trials of the best group that are decoded on the guard sets, the recommended one among them.
FINALISTS = 3
_TEST, _GUARDS = "test", "guards"
# Seconds between two lines about the progress.
_EVERY = 10.0


@dataclass(frozen=True)
class Decoded:
    """A trial on a set. name: the set's folder in ``unseen/``. config: the trial's own, with the set to evaluate."""

    name: str
    trial: Trial
    config: TrainConfig
    evaluation: EvaluationSet
    with_base: bool

    @property
    def adapter(self) -> str:
        return str(self.trial.record.get("signature"))

    @cached_property
    def transcripts(self) -> list[str]:
        """Signatures of the trial's transcripts, one per repeat."""
        return self._signatures(self.adapter)

    @cached_property
    def base_transcripts(self) -> list[str]:
        """Those of the base alone under the same decoding."""
        return self._signatures(None) if self.with_base else []

    def _signatures(self, adapter: str | None) -> list[str]:
        request = DecodingRequest(self.config.decoding, self.config.seed)
        return transcript_signatures(self.evaluation, request, adapter)


def confirm(analysis: Analysis, manifest: str | None = None, limit: TimeLimit | None = None) -> bool:
    """Decode and score the sweep's choice on what no trial has seen; returns whether it names any such set.

    Args:
        manifest: of the test set, in place of the sweep's ``data.test_manifest``.
        limit: of the sweep's time.

    Raises:
        UserError: a set cannot be used or is trained on, an adapter is not in the store any more, or decoding failed.
        KeyboardInterrupt: it was asked to stop; what is decoded is kept.
    """
    folder = analysis.sweep.folder
    with using(folder):
        decoded = _planned(analysis, manifest)
        if decoded:
            _refuse_foreign(folder)
            _decode(folder, decoded, limit)
            _write(folder, decoded)
    return bool(decoded)


def _planned(analysis: Analysis, manifest: str | None) -> list[Decoded]:
    """All that is to be decoded, the test set first."""
    chosen, inputs = analysis.statistics.choice, Inputs()
    if manifest is None and not any(chosen.record.get(name) for name in ("test_manifest", "guard_manifests")):
        return []
    config = written_config(chosen.folder)
    if manifest is not None:
        config = replace(config, data=replace(config.data, test_manifest=manifest))
    test, guards = config.data.test_manifest, guard_sets(config.data.guard_manifests)
    best = [trial for trial in analysis.statistics.best_group if trial is not chosen]
    finalists = [chosen, *best][:FINALISTS] if guards else [chosen]
    sets = {_TEST: test} if test else {}
    sets |= {f"{_GUARDS}/{name}": path for name, path in guards.items()}
    found = []
    for trial in finalists if sets else ():
        own = config if trial is chosen else written_config(trial.folder)
        require_unseen(trial, own, test, guards, inputs)
        for name, path in sets.items():
            if name != _TEST or trial is chosen:
                at = on_set(own, path)
                found.append(Decoded(name, trial, at, inputs.evaluation(at), own.baseline or name != _TEST))
    return found


def require_unseen(
    trial: Trial, config: TrainConfig, test: str | None, guards: Mapping[str, str], inputs: Inputs
) -> None:
    """Raise a UserError unless these sets can be used, and a trial has seen nothing of them as far as can be told.

    test: manifest of the test set. guards: those of the guard sets, by name.
    """
    require_same_words(trial, config)
    _require_as_it_was(trial, config, inputs)
    data = replace(config.data, test_manifest=test, guard_manifests=dict(guards) or None)
    inputs.require_unseen(replace(config, data=data))


def require_same_words(trial: Trial, config: TrainConfig) -> None:
    """Raise a DataError if a trial had another list of hot words, whose texts cannot be compared with further ones.

    Records of earlier versions do not say which it was.
    """
    had, words = trial.record.get(RECORDED), read_hotwords(config.prompt)
    if had is not None and words is not None and hotwords_facts(words.words)[RECORDED] != had:
        problem, remedy = "has changed since the sweep", "Restore it, or run the sweep again"
        raise DataError(f"{OPTION}={config.prompt.hotwords}", problem, remedy)


def _require_as_it_was(trial: Trial, config: TrainConfig, inputs: Inputs) -> None:
    """Raise a DataError if a trial has seen other data than its manifests hold now: whether it was trained on, or
    chosen by, what is to be decoded can then not be told. Older records do not say what it was trained on."""
    if config.data.allow_overlap:
        return
    trained, evaluated = trial.record.get("train_identity"), trial.record.get("eval_identity")
    changed = config.data.eval_manifest if inputs.evaluation(config).reference_identity != evaluated else None
    if trained is not None and inputs.training_set(config).identity != trained:
        changed = config.data.train_manifest
    if changed is not None:
        problem = f"has changed since trial {trial.name} ran, so it cannot be told whether its data are unseen"
        remedy = "Put back the manifest and the recordings as they were, or run the same sweep again"
        raise DataError(", ".join(manifest_paths(changed)), problem, remedy)


def record_looks(folder: Path, identity: str, looks: int) -> None:
    """Have a sweep's record of its test set say how many results of it were shown, after one more of another command.

    Args:
        folder: of the sweep. identity: of the test set.
    """
    path = folder / UNSEEN_RECORD
    record = read_json_object(path, "Make it again with --confirm")
    tested = record.get(_TEST)
    if isinstance(tested, dict) and tested.get("identity") == identity:
        with suppress(PermissionError):  # another's sweep, whose report cannot be written either
            write_json(path, record | {_TEST: tested | {"looks": looks}})


def launcher_of(folder: Path) -> LauncherConfig:
    """The launcher that a sweep was started with; the default one where that is not recorded, or is another's."""
    path = folder / "multirun.yaml"
    written = read_yaml(path, "Run the sweep again") if path.is_file() else None
    launcher = written.get("hydra", {}).get("launcher") if isinstance(written, Mapping) else None
    if not isinstance(launcher, Mapping) or launcher.get("_target_") != LauncherConfig._target_:
        return LauncherConfig()
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LauncherConfig), dict(launcher)))
    except OmegaConfBaseException as error:
        raise DataError(path, f"hydra.launcher cannot be used ({error})", "Run the sweep again") from None
    assert isinstance(settings, LauncherConfig)
    return settings


def _decode(folder: Path, decoded: Sequence[Decoded], limit: TimeLimit | None) -> None:
    """Have the transcripts made that the store lacks, by the launcher of the sweep."""
    note(("adapter", one.adapter) for one in decoded)
    for one in decoded:
        adapter = store.find("adapter", one.adapter)
        if adapter is None:
            problem = f"its adapter {one.adapter} is not in the store any more"
            raise DataError(one.trial.folder, problem, "Run the sweep again, which trains it")
        require_base(one.evaluation.base, adapter)
    units = _missing(decoded)
    if not units:
        return
    print(f"decoding on unseen data: {_said(decoded)}")
    progress = _Progress({one.adapter: one.trial.name for one in decoded})
    stopped = make_units(launcher_of(folder), units, set(), folder, progress.take, limit=limit)
    if stopped is not None:
        raise stopped
    if progress.failed:
        failed = progress.failed[0]
        reason = failed.failure.message or failed.failure.error_type
        raise UserError(f"{folder}: decoding {progress.name(failed.unit)} on unseen data failed: {reason}")


def _missing(decoded: Sequence[Decoded]) -> list[Unit]:
    """Units of what the store lacks: adapters, and the base alone, each with the sets and settings to decode."""
    units: dict[str, Unit] = {}
    for one in decoded:
        for key, transcripts in ((BASE, one.base_transcripts), (one.adapter, one.transcripts)):
            if stored_transcripts(transcripts) is None:
                unit = units.setdefault(key, Unit(key, []))
                unit.jobs.append(one.config)
                unit.evaluations.append(one.evaluation.identity)
    return list(units.values())


def _said(decoded: Sequence[Decoded]) -> str:
    sets = {one.name: one.evaluation.conversations for one in decoded}
    return "; ".join(f"{found.called} ({len(found)} utterances)" for found in sets.values())


class _Progress:
    """Lines about what is decoded, in place of a table: there are a few units at most."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names, self._told = names, time.monotonic()
        self.failed: list[Failed] = []

    def name(self, unit: str) -> str:
        return "the base" if unit == BASE else f"trial {self._names[unit]}"

    def take(self, event: Event) -> None:
        """Take in an event of a unit."""
        if isinstance(event, Failed):
            self.failed.append(event)
        elif isinstance(event, Decoding) and time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            print(f"decoding on unseen data: {self.name(event.unit)}, {event.done} of {event.total} utterances")


def _write(folder: Path, decoded: Sequence[Decoded]) -> None:
    """Score all and replace what the sweep's folder has of it, the looks at the test set counted.

    The record is empty until all that it names is there: cut off, the folder is still known as ours, and a repeat
    scores again.
    """
    place = folder / UNSEEN
    place.mkdir(exist_ok=True)
    record: dict[str, Any] = {_TEST: None, _GUARDS: {}}
    write_json(folder / UNSEEN_RECORD, record)
    for name in (_TEST, _GUARDS):
        shutil.rmtree(place / name, ignore_errors=True)
    for one in decoded:
        _score(one, place / one.name / one.trial.name)
        facts = {"manifest": one.evaluation.settings.eval_manifest, "identity": one.evaluation.reference_identity}
        if one.name == _TEST:
            looks = look(one.evaluation.reference_identity, one.transcripts, folder)
            record[_TEST] = {**facts, "trials": [one.trial.name], "looks": looks}
        else:
            entry = record[_GUARDS].setdefault(one.name.removeprefix(f"{_GUARDS}/"), {**facts, "trials": []})
            entry["trials"].append(one.trial.name)
    write_json(folder / UNSEEN_RECORD, record)


def _refuse_foreign(folder: Path) -> None:
    place = folder / UNSEEN
    is_empty = place.is_dir() and not any(place.iterdir())  # as a full disk leaves it
    if place.exists() and not is_empty and not (folder / UNSEEN_RECORD).is_file():
        raise UserError(f"{folder / UNSEEN}: was not written by a sweep. Move it away, and run the command again")


def _score(one: Decoded, folder: Path) -> None:
    """Write the files of a trial: its own and the base's scores and utterances."""
    folder.mkdir(parents=True)
    evaluation, options = one.evaluation, read_options(one.config.scoring)
    about = {"params": one.trial.params, "command": one.trial.record.get("command")}
    named = [(one.adapter, one.trial.label, one.transcripts, "scores.json", UTTERANCES)]
    if one.with_base:
        named.append((BASE, "base (no adapter)", one.base_transcripts, "baseline.json", BASE_UTTERANCES))
    for adapter, label, signatures, scores, utterances in named:
        transcripts = stored_transcripts(signatures)
        assert transcripts is not None, "they were made just now"
        write_json(folder / scores, scores_of(evaluation.base, evaluation, transcripts, options, label, adapter, about))
        write_utterances(folder, evaluation.utterances(transcripts, options), name=utterances)
