"""Errors of every trial on every utterance, as arrays: what intervals and comparisons are computed from."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.scoring.intervals import MIN_RECORDINGS, bootstrap_rates, recording_index, sum_by_recording
from kimi_audio_ft.scoring.ranking import COUNTED, utterance_edits
from multirun_analysis.records import RERUN, Record, read_jsonl
from multirun_analysis.settings import Setting
from multirun_analysis.statistics.seeds import SeedErrors, seed_errors
from multirun_analysis.sweep import Trial


@dataclass(frozen=True)
class Tally:
    """Edits of ``trials`` on the same utterances, under one normalisation.

    edits: ``[trials, utterances]``, whole numbers: sums over the ``repeats`` ``[trials]`` of sampling, so that sums of
        them are exact and equal on every machine.
    chars: reference characters, ``[utterances]``. recordings: the recording of every utterance.
    seeds: the luck of the seeds, where rows are means of settings of which some have several.
    """

    trials: list[Trial]
    edits: NDArray[np.int64]
    repeats: NDArray[np.int64]
    chars: NDArray[np.int64]
    recordings: list[str]
    seeds: SeedErrors | None = None

    @cached_property
    def num_recordings(self) -> int:
        return len(set(self.recordings))

    @property
    def has_enough(self) -> bool:
        """Whether there are recordings enough for intervals and tests."""
        return self.num_recordings >= MIN_RECORDINGS

    @cached_property
    def mean_edits(self) -> NDArray[np.float64]:
        """Edits of an utterance, mean over the repeats, ``[trials, utterances]``."""
        return self.edits / self.repeats[:, None]

    @cached_property
    def edits_by_recording(self) -> NDArray[np.float64]:
        """Edits of a recording, mean over the repeats, ``[trials, recordings]``."""
        return self._by_recording(self.edits) / self.repeats[:, None]

    @cached_property
    def chars_by_recording(self) -> NDArray[np.float64]:
        """Reference characters of a recording, ``[recordings]``."""
        return self._by_recording(self.chars[None])[0]

    @cached_property
    def whole_edits(self) -> NDArray[np.float64]:
        """Edits of a recording times one number for all trials, so that they are whole, ``[trials, recordings]``."""
        return self._by_recording(self.edits * (np.lcm.reduce(self.repeats) // self.repeats)[:, None])

    def _by_recording(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        return sum_by_recording(counts.astype(float), recording_index(self.recordings))

    @cached_property
    def rates(self) -> NDArray[np.float64]:
        """Corpus error rate of each trial, ``[trials]``."""
        return self.edits.sum(axis=1) / self.repeats / max(int(self.chars.sum()), 1)

    def only(self, trials: Sequence[Trial]) -> Tally:
        """Of some of its trials, in their order."""
        rows = [self.trials.index(trial) for trial in trials]
        return Tally(list(trials), self.edits[rows], self.repeats[rows], self.chars, self.recordings)

    def resampled(self, resamples: int, seed: int) -> NDArray[np.float64] | None:
        """Rates of all trials in the same resamples, ``[resamples, trials]``; None with too few recordings."""
        if not self.has_enough:
            return None
        return bootstrap_rates(self.edits, self.chars, self.recordings, resamples, seed) / self.repeats


@dataclass(frozen=True)
class Transcripts:
    """The texts behind a tally (of the rate that ranks), in the order of its trials and utterances.

    texts: ``[trials][utterances]``, as they were written; of several repeats the one with the most edits.
    """

    tally: Tally
    ids: list[str]
    references: list[str]
    texts: list[list[str]]


@dataclass(frozen=True)
class Tallies:
    """Tallies of the trials that can be compared; None when no trial has utterances.

    strict, normalised: of the two CERs. ranked: of the rate that ranks the trials, often one of these; then ``chars``
    are its units.
    """

    strict: Tally | None
    normalised: Tally | None
    ranked: Tally | None
    left_out: list[Trial]
    transcripts: Transcripts | None = None


@dataclass(slots=True)
class _Utterance:
    """One utterance of one trial over its ``repeats``; counts are strict, normalised, and of the rate that ranks.

    Equal texts of all trials are one object: those of a large sweep would fill the memory.
    """

    recording: str
    reference: str
    chars: tuple[int, ...]
    edits: list[int] = field(default_factory=lambda: [0, 0, 0])
    repeats: int = 0
    worst: int = -1
    text: str = ""

    def hear(self, edits: tuple[int, int, int], text: str, ranked: int) -> None:
        """Count one more repeat; ``ranked``: which of its edits make it the worst."""
        self.repeats += 1
        self.edits[0] += edits[0]
        self.edits[1] += edits[1]
        self.edits[2] += edits[2]
        if edits[ranked] > self.worst:
            self.worst, self.text = edits[ranked], sys.intern(text)


_Counts = dict[str, _Utterance]  # one trial's file, in its order


def tally_up(trials: Iterable[Trial]) -> Tallies:
    """Read the utterances of ``trials``, best first; those that differ from the first one's are left out.

    Raises:
        DataError: a file cannot be read or a line lacks its texts.
    """
    kept: dict[Trial, _Counts] = {}
    left_out = []
    for trial in trials:
        counts = _read(trial)
        if _compares(counts, next(iter(kept.values()), counts)):
            kept[trial] = counts
        else:
            left_out.append(trial)
    if not kept:
        return Tallies(None, None, None, left_out)
    strict, normalised = (_tally(kept, which) for which in range(len(COUNTED)))
    rank_by = next(iter(kept)).rank_by
    ranked = dict(zip(COUNTED, (strict, normalised), strict=True)).get(rank_by) or _tally(kept, len(COUNTED))
    return Tallies(strict, normalised, ranked, left_out, _transcripts(ranked, kept))


def of_settings(tally: Tally, settings: Sequence[Setting]) -> Tally:
    """A row for each of ``settings`` with a trial in ``tally``: the mean of its trials, under the first one's name."""
    place = {trial: row for row, trial in enumerate(tally.trials)}
    adapters = [str(trial.record.get("signature") or trial.name) for trial in tally.trials]
    members = [
        sorted(
            (place[trial] for trial in setting.trials if trial in place),
            key=lambda row: (adapters[row], tally.trials[row].name),
        )
        for setting in settings
    ]
    # Settings with the same adapters have them in the same order.
    found = [(setting, rows) for setting, rows in zip(settings, members, strict=True) if rows]
    if all(len(rows) == 1 for _, rows in found):
        return tally
    repeats = [int(np.lcm.reduce(tally.repeats[rows])) for _, rows in found]
    edits = [
        (tally.edits[rows] * (each // tally.repeats[rows])[:, None]).sum(axis=0)
        for (_, rows), each in zip(found, repeats, strict=True)
    ]
    seeds = seed_errors(
        [tally.edits_by_recording[rows] for _, rows in found],
        [not setting.is_base for setting, _ in found],
        [tuple(adapters[row] for row in rows) for _, rows in found],
    )
    return Tally(
        [setting.trial for setting, _ in found],
        np.array(edits, np.int64),
        np.array([each * len(rows) for each, (_, rows) in zip(repeats, found, strict=True)], np.int64),
        tally.chars,
        tally.recordings,
        seeds,
    )


def _read(trial: Trial) -> _Counts:
    """One trial's counts; its rows are not kept, thirty-six trials of them would fill a gigabyte."""
    counts: _Counts = {}
    path, rank_by = trial.utterances_path, trial.rank_by
    is_counted = rank_by in COUNTED
    ranked = COUNTED.index(rank_by) if is_counted else len(COUNTED)
    if "utterances" in vars(trial):
        rows: Iterable[Record] = trial.utterances
    else:
        rows = read_jsonl(path) if path.is_file() else ()
    try:
        for row in rows:
            name = str(row["id"])
            own, units = (0, 0) if is_counted else utterance_edits(row["reference"], row["hypothesis"] or "", rank_by)
            if name not in counts:
                chars = (row["chars"], row["normalised_chars"], units)
                reference = sys.intern(str(row.get("reference") or ""))
                counts[name] = _Utterance(str(row.get("recording") or name), reference, chars)
            edits = (row["edits"], row["normalised_edits"], own)
            counts[name].hear(edits, str(row.get("hypothesis") or ""), ranked)
    except KeyError as error:
        raise DataError(path, f"has an utterance without {error}", RERUN) from error
    return counts


def _compares(counts: _Counts, other: _Counts) -> bool:
    """Whether a trial has every utterance in every repeat, with the texts of the other one's."""
    is_whole = len({one.repeats for one in counts.values()}) == 1
    return (
        is_whole
        and counts.keys() == other.keys()
        and all(
            (one.reference, one.chars) == (other[name].reference, other[name].chars) for name, one in counts.items()
        )
    )


def _tally(kept: dict[Trial, _Counts], which: int) -> Tally:
    first, *_ = kept.values()
    edits = [[counts[name].edits[which] for name in first] for counts in kept.values()]
    repeats = [next(iter(counts.values())).repeats for counts in kept.values()]
    chars = [one.chars[which] for one in first.values()]
    recordings = [one.recording for one in first.values()]
    return Tally(
        list(kept), np.array(edits, np.int64), np.array(repeats, np.int64), np.array(chars, np.int64), recordings
    )


def _transcripts(ranked: Tally, kept: dict[Trial, _Counts]) -> Transcripts:
    first, *_ = kept.values()
    texts = [[counts[name].text for name in first] for counts in kept.values()]
    return Transcripts(ranked, list(first), [one.reference for one in first.values()], texts)
