"""Trials are ranked together only if they were scored on the same references, in the same way."""

from __future__ import annotations

import json
from typing import Any

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep_folder import UTTERANCES
from multirun_analysis.records import read_jsonl
from multirun_analysis.sweep import Sweep, Trial

REFERENCE_SET = ("num_references", "num_reference_chars", "eval_identity")
VERSION = "normalisation_version"
# Every option of scoring, and the part of scores.json that has it.
_NORMALISED = dict.fromkeys(("fillers", "erhua", "traditional", "readings"), "normalisation")
OPTIONS = {**_NORMALISED, "terms": "word_lists", "names": "word_lists"}
# Records state these only where they are set to something else.
_DEFAULTS = {"traditional": True, "readings": True}
_SHOWN, _RECORDS_SHOWN = 3, 4
_SHORT_LIST = 6
_AGAIN = "that only rescores, nothing is trained or decoded again"


def check_comparable(sweep: Sweep) -> None:
    """Check that all finished trials and bases have the same references, normalisation version and scoring options.

    Older records state no version or lack options: they are compared with each other, and with no others.

    Raises:
        UserError: they differ; names the records, the values, and the utterances or words that differ.
    """
    _check_references(sweep)
    _check_scoring(sweep)


def version_of(trial: Trial) -> int | None:
    """The version of the normalisation that scored a trial; None where its record states none."""
    return trial.record.get(VERSION)


def option_of(trial: Trial, name: str) -> Any:
    """The value of ``scoring.{name}`` that scored a trial, a file as its words; None where its record lacks it."""
    return (trial.record.get(OPTIONS[name]) or {}).get(name, _DEFAULTS.get(name))


def _check_references(sweep: Sweep) -> None:
    trials = _compared(sweep)
    for key in REFERENCE_SET:
        groups, found = _groups(trials, [trial.record.get(key) for trial in trials])
        if len(groups) > 1:
            raise _other_references(sweep, f"{key} is {found}. {_difference(*groups[:2])}")


def _check_scoring(sweep: Sweep) -> None:
    trials = _compared(sweep)
    groups, found = _groups(trials, [version_of(trial) for trial in trials])
    if len(groups) > 1:
        raise UserError(
            f"{sweep.folder}: trials were scored by different versions of the normalisation: {VERSION} is {found}. "
            f"Their scores cannot be compared. Re-run the same sweep command: {_AGAIN}"
        )
    for name in OPTIONS:
        groups, found = _groups(trials, [option_of(trial, name) for trial in trials])
        if len(groups) > 1:
            raise UserError(
                f"{sweep.folder}: trials were scored under different options: scoring.{name} is {found}. "
                f"{_words_between(groups[0][0], groups[1][0], name)}Their scores cannot be compared. Re-run the same "
                f"sweep command with one value of scoring.{name}: {_AGAIN}"
            )


def _compared(sweep: Sweep) -> list[Trial]:
    return [*sweep.finished, *sweep.baselines]


def _groups(trials: list[Trial], values: list[Any]) -> tuple[list[list[Trial]], str]:
    """Trials by what is recorded of each, and that in words; of a list the order makes no difference."""
    groups: dict[str, tuple[Any, list[Trial]]] = {}
    for trial, value in zip(trials, values, strict=True):
        key = json.dumps(sorted(set(value)) if isinstance(value, list) else value)
        groups.setdefault(key, (value, []))[1].append(trial)
    found = "; ".join(f"{_said(value)} in {_records(group)}" for value, group in groups.values())
    return [group for _, group in groups.values()], found


def _records(trials: list[Trial]) -> str:
    names = [f"{trial.name}/{'baseline' if trial.is_base else 'scores'}.json" for trial in trials]
    return _first_of(names, _RECORDS_SHOWN)


def _other_references(sweep: Sweep, difference: str) -> UserError:
    return UserError(
        f"{sweep.folder}: trials were scored on different reference sets: {difference}Error rates over different "
        "references cannot be compared. Score every trial on one evaluation set (data.eval_manifest) or report the "
        "sweeps separately"
    )


def _difference(first: list[Trial], second: list[Trial]) -> str:
    """Which utterances of two groups of trials differ; nothing when one of them has no file of them."""
    found, against = (
        next(((t, texts) for t in trials if (texts := _references(t))), None) for trials in (first, second)
    )
    if found is None or against is None:
        return ""
    (one, references), (other, others) = found, against
    changed = [key for key, text in references.items() if key in others and others[key] != text]
    groups = {
        f"only in {one.name}": [repr(key) for key in references if key not in others],
        f"only in {other.name}": [repr(key) for key in others if key not in references],
        f"with another reference in {other.name} than in {one.name}": [
            f"{key!r} ({others[key]!r} for {references[key]!r})" for key in changed
        ],
    }
    told = [
        f"{len(keys)} utterance{'s' * (len(keys) > 1)} {how}: {_first_of(keys)}" for how, keys in groups.items() if keys
    ]
    same = f"Utterances and references are the same in {one.name} and {other.name}, recordings or prompts differ"
    return f"{'; '.join(told) or same}. "


def _references(trial: Trial) -> dict[str, str]:
    """By id; empty for a base, and without a file. Its rows are not kept: all trials' would fill the memory."""
    path = trial.folder / UTTERANCES
    rows = () if trial.is_base or not path.is_file() else read_jsonl(path)
    return {str(row.get("id")): str(row.get("reference")) for row in rows}


def _said(value: Any) -> str:
    if value is None:
        return "not stated"
    if isinstance(value, list) and len(value) > _SHORT_LIST:
        return f"a list of {len(value)} words"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _words_between(one: Trial, other: Trial, name: str) -> str:
    """Words that only one of two long lists has; nothing where both are shown whole anyway."""
    lists = [option_of(trial, name) for trial in (one, other)]
    if not all(isinstance(words, list) for words in lists) or max(map(len, lists)) <= _SHORT_LIST:
        return ""
    told = []
    for trial, mine, theirs in ((one, *lists), (other, *reversed(lists))):
        only = [repr(word) for word in mine if word not in theirs]
        told += [f"only in the list of {trial.name}: {_first_of(only)}"] if only else []
    said = "; ".join(told)
    return f"{said[0].upper()}{said[1:]}. "


def _first_of(items: list[str], most: int = _SHOWN) -> str:
    """The first ones, and how many more there are."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")
