"""Trials are compared on one set of references; where there are two, what differs between them is said."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from typing import Any

from kimi_audio_ft.errors import UserError
from multirun_analysis.records import read_jsonl
from multirun_analysis.sweep import Sweep, Trial

IDENTITY = "eval_identity"
REFERENCE_SET = ("num_references", "num_reference_chars", IDENTITY)
FILE = "utterances.jsonl"
_SHOWN = 3


def check_reference_sets(sweep: Sweep) -> None:
    """Every finished trial and every base was scored on the same references.

    Raises:
        UserError: they were not; names the trials, and the utterances that differ, from their utterances.jsonl.
    """
    for key in REFERENCE_SET:
        holders = holders_of((trial.record.get(key), trial) for trial in compared(sweep))
        if len(holders) > 1:
            found = "; ".join(f"{value!r} in {records_of(trials)}" for value, trials in holders.items())
            first, second, *_ = holders.values()
            raise _refusal(sweep, f"{key} is {found}. {_difference(first, second)}")
    if sweep.finished and sweep.finished[0].record.get(IDENTITY) is None:
        _check_texts(sweep)


def _check_texts(sweep: Sweep) -> None:
    """The same by the texts of utterances.jsonl, where nobody recorded what identifies the references."""
    first: tuple[Trial, dict[str, str]] | None = None
    for trial in sweep.finished:
        texts = _references(trial)
        # Some are missing where a disk was full: such a trial is compared with no other.
        if not texts or trial.record.get("num_references") not in (None, len(texts)):
            continue
        first = first or (trial, texts)
        if texts != first[1]:
            raise _refusal(sweep, _difference([first[0]], [trial]))


def _refusal(sweep: Sweep, difference: str) -> UserError:
    return UserError(
        f"{sweep.folder}: trials were scored on different reference sets: {difference}Error rates over different "
        "references cannot be compared. Score every trial on one evaluation set (data.eval_manifest) or report the "
        "sweeps separately"
    )


def compared(sweep: Sweep) -> list[Trial]:
    """What is ranked together."""
    return [*sweep.finished, *sweep.baselines]


def holders_of(facts: Iterable[tuple[Hashable, Trial]]) -> dict[Hashable, list[Trial]]:
    """Trials by something that is recorded of each."""
    holders: dict[Hashable, list[Trial]] = {}
    for fact, trial in facts:
        holders.setdefault(fact, []).append(trial)
    return holders


def records_of(trials: list[Trial], most: int = 4) -> str:
    """The files that say it, the first ones by name."""
    names = [f"{trial.name}/{'baseline' if trial.is_base else 'scores'}.json" for trial in trials]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _difference(first: list[Trial], second: list[Trial]) -> str:
    """What the transcripts of two groups of trials say about it; nothing when one of them has none."""
    found, against = (
        next(((t, texts) for t in trials if (texts := _references(t))), None) for trials in (first, second)
    )
    if found is None or against is None:
        return ""
    (one, references), (other, others) = found, against
    changed = [key for key, text in references.items() if key in others and others[key] != text]
    told = [
        _listed(f"only in {one.name}", [repr(key) for key in references if key not in others]),
        _listed(f"only in {other.name}", [repr(key) for key in others if key not in references]),
        _listed(
            f"with another reference in {other.name} than in {one.name}",
            [f"{key!r} ({others[key]!r} for {references[key]!r})" for key in changed],
        ),
    ]
    what = "; ".join(filter(None, told))
    same = f"Utterances and references are the same in {one.name} and {other.name}, recordings or prompts differ"
    return f"{what or same}. "


def _references(trial: Trial) -> dict[str, str]:
    """By id; empty for a base, and without a file. Its rows are not kept: all trials' would fill the memory."""
    path = trial.folder / FILE
    rows = () if trial.is_base or not path.is_file() else read_jsonl(path)
    return {str(row.get("id")): str(row.get("reference")) for row in rows}


def _listed(what: str, items: list[str]) -> str:
    if not items:
        return ""
    rest = len(items) - _SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return f"{len(items)} utterance{'s' * (len(items) > 1)} {what}: {', '.join(items[:_SHOWN])}{more}"


# --- Trials are compared when they were scored alike: by one version of the normalisation, under the same options.

VERSION = "normalisation_version"
# Every option of scoring, and the part of scores.json that has it.
OPTIONS = {"fillers": "normalisation", "erhua": "normalisation", "terms": "word_lists", "names": "word_lists"}
_SHOWN = 3
_SHORT_LIST = 6
_AGAIN = "it scores every trial anew, and neither trains nor decodes again"


def check_scored_alike(sweep: Sweep) -> None:
    """Every finished trial and every base was scored by one version of the normalisation, under the same options.

    Older records state no version or lack options: they are compared with each other, and with no others.

    Raises:
        UserError: they were not; names the records, the option or version, and its values.
    """
    versions = holders_of((version_of(trial), trial) for trial in compared(sweep))
    if len(versions) > 1:
        found = "; ".join(f"{_said(value)} in {records_of(trials)}" for value, trials in versions.items())
        raise UserError(
            f"{sweep.folder}: trials were scored by different versions of the normalisation: {VERSION} is {found}. "
            f"Their scores cannot be compared. Run the same sweep command again: {_AGAIN}"
        )
    for name in OPTIONS:
        by_value = holders_of((_comparable(option_of(trial, name)), trial) for trial in compared(sweep))
        if len(by_value) > 1:
            groups = list(by_value.values())
            found = "; ".join(f"{_said(option_of(trials[0], name))} in {records_of(trials)}" for trials in groups)
            raise UserError(
                f"{sweep.folder}: trials were scored under different options: scoring.{name} is {found}. "
                f"{_words_between(groups[0][0], groups[1][0], name)}Their scores cannot be compared. Run the same "
                f"sweep command again with one value of scoring.{name}: {_AGAIN}"
            )


def version_of(trial: Trial) -> int | None:
    """The version of the normalisation that scored a trial; None where its record states none."""
    return trial.record.get(VERSION)


def option_of(trial: Trial, name: str) -> Any:
    """The value of ``scoring.{name}`` that scored a trial, a file as its words; None where its record lacks it."""
    return (trial.record.get(OPTIONS[name]) or {}).get(name)


def _comparable(value: Any) -> str:
    """Equal for equal options: the order of words makes no difference."""
    return json.dumps(sorted(set(value)) if isinstance(value, list) else value)


def _said(value: Any) -> str:
    if value is None:
        return "not stated"
    if isinstance(value, list) and len(value) > _SHORT_LIST:
        return f"a list of {len(value)} words"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _words_between(one: Trial, other: Trial, name: str) -> str:
    """Which words only one of two long lists has; nothing where that is seen anyway."""
    lists = [option_of(trial, name) for trial in (one, other)]
    if not all(isinstance(words, list) for words in lists) or max(map(len, lists)) <= _SHORT_LIST:
        return ""
    told = []
    for trial, mine, theirs in ((one, *lists), (other, *reversed(lists))):
        only = [repr(word) for word in mine if word not in theirs]
        rest = f" and {len(only) - _SHOWN} more" if len(only) > _SHOWN else ""
        told += [f"only in the list of {trial.name}: {', '.join(only[:_SHOWN])}{rest}"] if only else []
    said = "; ".join(told)
    return f"{said[0].upper()}{said[1:]}. "
