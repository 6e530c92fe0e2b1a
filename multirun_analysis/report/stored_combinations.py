"""Combinations in a sweep's report: those that ``python -m kimi_audio_ft.combine`` has left, or what minimum Bayes risk
makes of the texts that the sweep has decoded anyway.

The latter cost no decoding, so every report has them. They are bounded, whatever the size of the sweep: the samples of
``MOST`` trials and the texts of as many together, at most ``MOST_TEXTS`` of an utterance each time. Which trials these
are was chosen on the same evaluation set, as is the best single trial that they are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.scoring import score
from kimi_audio_ft.scoring.consensus import is_vote, vote
from kimi_audio_ft.scoring.intervals import error_rate_interval
from multirun_analysis.analysis import Analysis
from multirun_analysis.records import Record, read_jsonl
from multirun_analysis.report.combined import Combinations, Combined, combinations_of, facts_of
from multirun_analysis.statistics.pairs import all_pairs
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.results import ALPHA, Interval
from multirun_analysis.statistics.summary import SEED
from multirun_analysis.statistics.tally import tally_up
from multirun_analysis.sweep import Scores, Status, Trial

MOST = 4
MOST_TEXTS = 64
# Of an utterance: what is scored and compared. The rest of a large sweep's lines would fill the memory.
_READ = ("id", "recording", "reference", "hypothesis", "edits", "chars", "normalised_edits", "normalised_chars")

Repeats = list[dict[str, Record]]
"""Lines of utterances by their ids, one dict per repeat."""
_Repeat = TypeVar("_Repeat")


@lru_cache(maxsize=1)
def combinations_shown(analysis: Analysis) -> Combinations | None:
    """Those that the command has left, or else those of the texts that there are; None without any.

    Page, tables and terminal ask for those of one analysis several times.
    """
    return combinations_of(analysis) or stored_combinations(analysis)


def trials_to_combine(analysis: Analysis, most: int = MOST) -> list[Trial]:
    """Those that may be the best, with all their seeds, one of each adapter; of one adapter all its ways of decoding.

    At most so many, the best first.
    """
    by_adapter = _may_be_best(analysis)
    found = list(by_adapter.values())[:most]
    if len(by_adapter) == 1:
        found = [trial for trial in analysis.sweep.finished if _adapter_of(trial) in by_adapter]
    return sorted(found, key=_rate_of)[:most]


def sampled_trials(analysis: Analysis, most: int = MOST) -> list[Trial]:
    """Those with several samples by an adapter that may be the best: at most so many, the best first.

    One sample of such a trial is mostly worse than a greedy text, and many of them are better together: that a trial is
    ruled out says nothing of their combination.
    """
    by_adapter = _may_be_best(analysis)
    found = [trial for trial in analysis.sweep.finished if _adapter_of(trial) in by_adapter]
    return sorted((trial for trial in found if is_vote([len(trial.repeats)])), key=_rate_of)[:most]


def _may_be_best(analysis: Analysis) -> dict[str, Trial]:
    """Adapters that may be the best, each with its first trial that may."""
    best = [analysis.statistics.choice, *analysis.statistics.best_group]
    found: dict[str, Trial] = {}
    for setting in dict.fromkeys(analysis.setting_of[trial] for trial in best if not trial.is_base):
        for trial in setting.trials:
            found.setdefault(_adapter_of(trial), trial)
    return found


def _adapter_of(trial: Trial) -> str:
    """Its adapter's signature; of an older record, which does not say, the trial has its own."""
    return str(trial.record.get("signature") or f"of trial {trial.name}")


def _rate_of(trial: Trial) -> float:
    return trial.rate


def stored_combinations(analysis: Analysis) -> Combinations | None:
    """Of the samples of a trial, and of the texts of several; None where there are too few texts."""
    voters, sampled = trials_to_combine(analysis), sampled_trials(analysis)
    heard = dict(_comparable(sorted(dict.fromkeys([*voters, *sampled]), key=_rate_of)))
    if not heard:
        return None
    single, named = next(iter(heard)), {trial.name: facts_of(trial) for trial in heard}
    made = []
    for facts, sources in votes(sampled, voters, heard, MOST_TEXTS):
        lines = vote(list(sources.values()), _text_of)
        made.append((facts, _as_trial(facts["name"], list(lines.values()), single)))
    if not made:
        return None
    rows, scores = compared(single, made), [trial for _, trial in made]
    # Unlike the command, the report confirms nothing on a test set, so the adjusted p must be below ALPHA too.
    chosen = chosen_of([row for row in rows if row.p_adjusted is not None and row.p_adjusted < ALPHA])
    best = None if chosen is None else chosen.name
    return Combinations(None, analysis.rank_by, named, single.name, single.rate, rows, best, None, scores)


def _comparable(trials: Sequence[Trial]) -> Iterator[tuple[Trial, Repeats]]:
    """Those with all repeats of every utterance that the first such one has; older sweeps lack some or all."""
    first: Repeats | None = None
    for trial in trials:
        try:
            repeats = repeats_of(trial)
        except DataError:
            continue
        if first is None or repeats[0].keys() == first[0].keys():
            first = first or repeats
            yield trial, repeats


def repeats_of(trial: Trial) -> Repeats:
    """What is scored of a trial's utterances.

    Raises:
        DataError: it has none, or not all repeats of every utterance.
    """
    found: dict[int, dict[str, Record]] = {}
    path = trial.utterances_path
    for row in read_jsonl(path) if path.is_file() else ():
        kept = {name: row.get(name) for name in _READ} | ({"truncated": True} if row.get("truncated") else {})
        found.setdefault(int(row.get("repeat") or 0), {})[str(row["id"])] = kept
    repeats = [found[number] for number in sorted(found)]
    remedy = "Run the sweep's command again, which only rescores"
    if not repeats:
        raise DataError(path, "has no utterances", remedy)
    if any(one.keys() != repeats[0].keys() for one in repeats):
        raise DataError(path, "does not have all repeats of every utterance", remedy)
    return repeats


def votes(
    sampled: Sequence[Trial],
    voters: Sequence[Trial],
    heard: Mapping[Trial, Sequence[_Repeat]],
    most_texts: int | None = None,
) -> Iterator[tuple[dict[str, Any], dict[Trial, Sequence[_Repeat]]]]:
    """Of each trial in ``sampled`` the samples, and of all ``voters`` the texts, wherever there is anything to decide:
    facts of the combination (fields of ``Combined``), and the repeats that vote.

    Args:
        heard: repeats of trials; those that are not in it are left out. most_texts: of an utterance; None: all.
    """
    of_each = [("samples", f"samples-{trial.name}", [trial]) for trial in sampled]
    for kind, name, trials in [*of_each, ("trials", "trials", list(voters))]:
        known = [trial for trial in trials if trial in heard]
        share = None if most_texts is None else most_texts // max(len(known), 1)
        found = {trial: heard[trial][:share] for trial in known}
        counts = [len(repeats) for repeats in found.values()]
        if (kind == "samples" or len(found) > 1) and is_vote(counts):
            yield facts_of_vote(kind, name, known, sum(counts)), found


def facts_of_vote(kind: str, name: str, trials: Sequence[Trial], decodings: int) -> dict[str, Any]:
    """Fields of ``Combined`` of what is chosen from so many texts of an utterance."""
    adapters = len({trial.record.get("signature") for trial in trials})
    named = [trial.name for trial in trials]
    return {"name": name, "kind": kind, "trials": named, "decodings": decodings, "adapters": adapters}


def _text_of(row: Record) -> str:
    return str(row["hypothesis"] or "")


def _as_trial(name: str, lines: list[Record], single: Trial) -> Trial:
    """Texts with their scores, as a trial that has no folder of its own."""
    strict, normalised = _scores(lines, single.rank_by)
    edits, chars = ([row[key] for row in lines] for key in ("edits", "chars"))
    interval = error_rate_interval(edits, chars, [str(row["recording"] or row["id"]) for row in lines], SEED)
    low, high = interval or (None, None)
    record = {"cer_ci_low": low, "cer_ci_high": high}
    found = Trial(name, single.folder, Status.COMPLETED, {}, {}, record, strict, normalised, rank_by=single.rank_by)
    vars(found)["utterances"] = lines  # in place of a file of them
    return found


def _scores(lines: Sequence[Record], rank_by: str) -> tuple[Scores, Scores]:
    """Strict and normalised, as far as the leaderboard shows them: syllables are counted only where they rank."""
    references = {str(row["id"]): str(row["reference"]) for row in lines}
    found = score(references, {str(row["id"]): _text_of(row) for row in lines}, syllables=rank_by == "pinyin")
    cut = sum(bool(row.get("truncated")) for row in lines)
    edits, chars = (sum(row[f"normalised_{name}"] for row in lines) for name in ("edits", "chars"))
    unknown = dict.fromkeys(("wer", "mer", "exact_match", "substitutions", "deletions", "insertions", "empty_outputs"))
    strict = Scores.from_record({**found, "truncated_outputs": cut}, Path())
    return strict, Scores(cer=edits / max(chars, 1), **unknown)


def compared(single: Trial, made: Sequence[tuple[Mapping[str, Any], Trial]]) -> list[Combined]:
    """Combinations, given their facts and scores, against a single trial: on the same utterances, by the methods of the
    sweep's report."""
    trials = [trial for _, trial in made]
    tally = tally_up([single, *trials]).ranked
    enough = tally is not None and tally.has_enough and len(tally.trials) > 1
    pairs = all_pairs(tally, randomise(tally.whole_edits, SEED)) if tally is not None and enough else []
    of_single = {pair.second: pair for pair in pairs if pair.first is single}
    rows = []
    for facts, trial in made:
        pair = of_single.get(trial)
        bounds = pair.interval if pair else None
        interval = None if bounds is None else Interval(-bounds.high, -bounds.low)
        p = pair.p_adjusted if pair else None
        rows.append(
            Combined(**facts, rate=trial.rate, difference=trial.rate - single.rate, interval=interval, p_adjusted=p)
        )
    return rows


def chosen_of(rows: Sequence[Combined]) -> Combined | None:
    """The combination with the lowest rate that is better than the single trial: as far as it is shown, unless it costs
    no more decodings in use; None without one."""
    better = [row for row in rows if row.is_shown or (row.difference < 0 and row.decodings == 1)]
    return min(better, key=lambda row: (row.rate, row.decodings), default=None)
