"""Errors of every trial on every utterance, as arrays: what intervals and comparisons are computed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.scoring.intervals import MIN_RECORDINGS, bootstrap_rates, recording_index, sum_by_recording
from kimi_audio_ft.scoring.normalise import normalise
from multirun_analysis.records import Record, read_jsonl
from multirun_analysis.sweep import UTTERANCES, Trial


@dataclass(frozen=True)
class Tally:
    """Edits of ``trials`` on the same utterances, under one normalisation.

    edits: ``[trials, utterances]``, whole numbers: sums over the ``repeats`` ``[trials]`` of sampling, so that sums of
        them are exact and equal on every machine.
    chars: reference characters, ``[utterances]``. recordings: the recording of every utterance.
    """

    trials: list[Trial]
    edits: NDArray[np.int64]
    repeats: NDArray[np.int64]
    chars: NDArray[np.int64]
    recordings: list[str]

    @cached_property
    def index(self) -> NDArray[np.intp]:
        """The number of each utterance's recording, ``[utterances]``."""
        return recording_index(self.recordings)

    @property
    def num_utterances(self) -> int:
        return len(self.recordings)

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
        return sum_by_recording(self.edits.astype(float), self.index) / self.repeats[:, None]

    @cached_property
    def chars_by_recording(self) -> NDArray[np.float64]:
        """Reference characters of a recording, ``[recordings]``."""
        return sum_by_recording(self.chars[None].astype(float), self.index)[0]

    @cached_property
    def rates(self) -> NDArray[np.float64]:
        """Corpus error rate of each trial, ``[trials]``."""
        return self.edits.sum(axis=1) / self.repeats / max(int(self.chars.sum()), 1)

    def resampled(self, resamples: int, seed: int) -> NDArray[np.float64] | None:
        """Rates of all trials in the same resamples, ``[resamples, trials]``; None with too few recordings."""
        if not self.has_enough:
            return None
        return bootstrap_rates(self.edits, self.chars, self.recordings, resamples, seed) / self.repeats


@dataclass(frozen=True)
class Tallies:
    """Strict and normalised tallies of the trials that can be compared; None when no trial has utterances."""

    strict: Tally | None
    normalised: Tally | None
    left_out: list[Trial]


@dataclass
class _Counts:
    """One trial's file, by utterance in the order of the file."""

    trial: Trial
    row_of: dict[str, int] = field(default_factory=dict)
    recordings: list[str] = field(default_factory=list)
    references: list[int] = field(default_factory=list)  # hashes: the texts of a large sweep would fill the memory
    rows: list[int] = field(default_factory=list)
    chars: list[tuple[int, int]] = field(default_factory=list)  # strict, normalised
    edits: list[list[int]] = field(default_factory=list)

    def add(self, row: Record) -> None:
        """One utterance in one repeat; older files lack the counts, which are then made from the texts."""
        name = str(row["id"])
        index = self.row_of.setdefault(name, len(self.rows))
        if index == len(self.rows):
            self.rows.append(0)
            self.edits.append([0, 0])
            self.recordings.append(str(row.get("recording") or name))
            self.references.append(hash(row.get("reference")))
            self.chars.append((_chars(row, "strict", "chars"), _chars(row, "normalised", "normalised_chars")))
        self.rows[index] += 1
        self.edits[index][0] += _edits(row, "strict", "edits")
        self.edits[index][1] += _edits(row, "normalised", "normalised_edits")

    @property
    def is_whole(self) -> bool:
        """Whether every utterance is there in every repeat."""
        return len(set(self.rows)) == 1

    @cached_property
    def of_each(self) -> dict[str, tuple[int, tuple[int, int]]]:
        """Reference and characters by utterance: trials are compared where they agree in these."""
        return {name: (self.references[row], self.chars[row]) for name, row in self.row_of.items()}

    def compares_with(self, other: _Counts) -> bool:
        return self.is_whole and self.of_each == other.of_each


def tally_up(trials: Iterable[Trial]) -> Tallies:
    """Read the utterances of ``trials``, best first; those that differ from the first one's are left out.

    Raises:
        DataError: a file cannot be read or a line lacks its texts.
    """
    kept: list[_Counts] = []
    left_out = []
    for trial in trials:
        counts = _read(trial)
        if counts.compares_with(kept[0] if kept else counts):
            kept.append(counts)
        else:
            left_out.append(trial)
    if not kept:
        return Tallies(None, None, left_out)
    return Tallies(_tally(kept, 0), _tally(kept, 1), left_out)


def _read(trial: Trial) -> _Counts:
    """One trial's counts; its rows are not kept, thirty-six trials of them would fill a gigabyte."""
    counts, path = _Counts(trial), trial.folder / UTTERANCES
    if "utterances" in vars(trial):
        rows: Iterable[Record] = trial.utterances
    else:
        rows = read_jsonl(path) if path.is_file() else ()
    try:
        for row in rows:
            counts.add(row)
    except KeyError as error:
        raise DataError(path, f"has an utterance without {error}", "Run this trial again") from error
    return counts


def _tally(kept: Sequence[_Counts], which: int) -> Tally:
    first = kept[0]
    chosen = [[counts.row_of[name] for name in first.row_of] for counts in kept]
    edits = np.array(
        [[counts.edits[row][which] for row in some] for counts, some in zip(kept, chosen, strict=True)], np.int64
    )
    repeats = np.array([counts.rows[0] for counts in kept], dtype=np.int64)
    chars = np.array([pair[which] for pair in first.chars], dtype=np.int64)
    return Tally([counts.trial for counts in kept], edits, repeats, chars, first.recordings)


def _chars(row: Record, normalisation: str, key: str) -> int:
    counted: Any = row.get(key)
    return len(normalise(row["reference"], normalisation)) if counted is None else counted


def _edits(row: Record, normalisation: str, key: str) -> int:
    counted: Any = row.get(key)
    if counted is not None:
        return counted
    texts = (normalise(row[side] or "", normalisation) for side in ("reference", "hypothesis"))
    return Levenshtein.distance(*texts)
