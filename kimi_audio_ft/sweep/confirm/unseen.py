"""After a sweep: its choice and the base decoded on the test set, the best trials on the guard sets.

Nothing that a trial makes depends on these sets. Their transcripts are products of the store like all others, made by
the sweep's launcher: a repeat decodes nothing, and an interrupted one goes on. The sweep's folder gets
``unseen/record.json`` and, for each set and trial, a folder with the files of a trial.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft import store
from kimi_audio_ft.base import require_base
from kimi_audio_ft.config.manifests import guard_sets, manifest_paths
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import read_json_object, write_json
from kimi_audio_ft.inputs import Inputs, on_set
from kimi_audio_ft.manifest.hotwords import OPTION, RECORDED, hotwords_facts, read_hotwords
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.runtime.time_limit import TimeLimit
from kimi_audio_ft.scoring import read_options
from kimi_audio_ft.store.looks import look
from kimi_audio_ft.store.usage import note, using
from kimi_audio_ft.sweep.confirm.decoding import Asked, decode_missing
from kimi_audio_ft.sweep.plan import written_config
from kimi_audio_ft.sweep_folder import BASE_UTTERANCES, UNSEEN, UNSEEN_RECORD, UTTERANCES
from kimi_audio_ft.trial import scores_of, write_utterances
from multirun_analysis.analysis import Analysis
from multirun_analysis.sweep import Trial

# Trials of the best group that are decoded on the guard sets, the recommended one among them.
FINALISTS = 3
_TEST, _GUARDS = "test", "guards"


@dataclass(frozen=True)
class Decoded:
    """A trial on a set. name: the set's folder in ``unseen/``. own, base: the trial's texts, and those of the base
    alone under the same decoding."""

    name: str
    trial: Trial
    own: Asked
    base: Asked | None


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
                evaluation = inputs.evaluation(at)
                texts = Asked(str(trial.record.get("signature")), f"trial {trial.name}", at, evaluation)
                base = Asked(BASE, "the base", at, evaluation) if own.baseline or name != _TEST else None
                found.append(Decoded(name, trial, texts, base))
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
    is_ours = os.access(path.parent, os.W_OK)  # the report of another's sweep cannot be written either
    if is_ours and isinstance(tested, dict) and tested.get("identity") == identity:
        write_json(path, record | {_TEST: tested | {"looks": looks}})


def _decode(folder: Path, decoded: Sequence[Decoded], limit: TimeLimit | None) -> None:
    """Have the transcripts made that the store lacks."""
    note(("adapter", one.own.key) for one in decoded)
    for one in decoded:
        adapter = store.find("adapter", one.own.key)
        if adapter is None:
            problem = f"its adapter {one.own.key} is not in the store any more"
            raise DataError(one.trial.folder, problem, "Run the sweep again, which trains it")
        require_base(one.own.evaluation.base, adapter)
    asked = [text for one in decoded for text in (one.base, one.own) if text is not None]
    decode_missing(folder, folder, asked, "decoding on unseen data", limit)


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
        evaluation = one.own.evaluation
        facts = {"manifest": evaluation.settings.eval_manifest, "identity": evaluation.reference_identity}
        if one.name == _TEST:
            looks = look(evaluation.reference_identity, one.own.transcripts, folder)
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
    evaluation, options = one.own.evaluation, read_options(one.own.config.scoring)
    about = {"params": one.trial.params, "command": one.trial.record.get("command")}
    named = [(one.own, one.trial.label, "scores.json", UTTERANCES)]
    if one.base is not None:
        named.append((one.base, "base (no adapter)", "baseline.json", BASE_UTTERANCES))
    for texts, label, scores, utterances in named:
        transcripts = texts.found()
        found = scores_of(evaluation.base, evaluation, transcripts, options, label, texts.key, about)
        write_json(folder / scores, found)
        write_utterances(folder, evaluation.utterances(transcripts, options), name=utterances)
