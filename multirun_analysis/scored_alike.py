"""Trials are compared when they were scored alike: by one version of the normalisation, under the same options."""

from __future__ import annotations

import json
from typing import Any

from kimi_audio_ft.errors import UserError
from multirun_analysis.collect import Sweep, Trial
from multirun_analysis.reference_sets import compared, holders_of, records_of

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
