"""What was decoded after the sweep on data that no trial has seen, as ``kimi_audio_ft/sweep/confirm`` leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.scoring.intervals import error_rate_intervals
from kimi_audio_ft.sweep_folder import UNSEEN, UNSEEN_RECORD
from multirun_analysis.records import finite, read_json
from multirun_analysis.settings import Setting
from multirun_analysis.statistics.pairs import all_pairs
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.results import Gain, Interval
from multirun_analysis.statistics.summary import SEED, gain_of
from multirun_analysis.statistics.tally import tally_up
from multirun_analysis.sweep import Trial, read_scored

_AGAIN = "Make it again with --confirm"


@dataclass(frozen=True)
class Held:
    """A trial of the sweep, and the base under the same decoding, on one set.

    of: the trial as the sweep has it. trial, base: on this set; base is None without one. interval: of the trial's
    rate. gain: over the base; a positive difference is what it has forgotten.
    """

    of: Trial
    trial: Trial
    base: Trial | None
    interval: Interval | None
    gain: Gain | None


@dataclass(frozen=True)
class Unseen:
    """The test set and the guard sets of a sweep.

    test: the chosen trial; None where nothing was tested, or another trial was. looks: how many different results of
    the test set were ever shown. guards: the best trials by the name of the set. waiting: path of a test set that the
    sweep names, on which its choice was not decoded yet; None when there is nothing to wait for.
    """

    test: Held | None = None
    looks: int = 0
    manifest: str | None = None
    guards: tuple[tuple[str, tuple[Held, ...]], ...] = ()
    waiting: str | None = None


def read_unseen(folder: Path, trials: Sequence[Trial], choice: Trial) -> Unseen:
    """What a sweep's folder has of it; results of trials that were replaced since are left out.

    Raises:
        DataError: a record cannot be read.
    """
    path = folder / UNSEEN_RECORD
    named = choice.record.get("test_manifest")
    if not path.is_file():
        return Unseen(waiting=named)
    record, known = finite(read_json(path)), {trial.name: trial for trial in trials}
    try:
        tested, guarded = record["test"] or {}, record["guards"]
        found = _held(folder / UNSEEN / "test", tested.get("trials", []), known)
        test = next((held for held in found if held.of is choice), None)
        guards = {name: _held(folder / UNSEEN / "guards" / name, one["trials"], known) for name, one in guarded.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"is no record of unseen data ({error!r})", _AGAIN) from None
    return Unseen(
        test=test,
        looks=int(tested.get("looks") or 0),
        manifest=tested.get("manifest"),
        guards=tuple((name, tuple(some)) for name, some in guards.items() if some),
        waiting=named if test is None else None,
    )


def _held(folder: Path, names: Sequence[str], known: dict[str, Trial]) -> list[Held]:
    found = []
    for name in names:
        of, place = known.get(name), folder / name
        trial = read_scored(place, place / "scores.json", {}, is_base=False)
        if of is None or _made(of) != _made(trial):
            continue
        base = place / "baseline.json"
        alone = read_scored(place, base, {}, is_base=True) if base.is_file() else None
        found.append(
            _compared(of, replace(trial, rank_by=of.rank_by), replace(alone, rank_by=of.rank_by) if alone else None)
        )
    return found


def _made(trial: Trial) -> tuple[Any, str]:
    """By what a trial decodes."""
    return trial.record.get("signature"), trial.decoding_key


def _compared(of: Trial, trial: Trial, base: Trial | None) -> Held:
    """Intervals and the difference from the base, by the methods of the sweep's own."""
    tally = tally_up([trial, *([base] if base else [])]).ranked
    if tally is None or not tally.has_enough or (base is not None and base not in tally.trials):
        return Held(of, trial, base, None, gain_of(Setting([trial]), Setting([base]), []) if base else None)
    bounds = error_rate_intervals(tally.edits_by_recording, tally.chars_by_recording, SEED).tolist()
    intervals = {one: Interval(low, high) for one, (low, high) in zip(tally.trials, bounds, strict=True)}
    pairs = all_pairs(tally, randomise(tally.whole_edits, SEED)) if base else []
    gain = gain_of(Setting([trial]), Setting([base]), pairs) if base else None
    return Held(of, trial, base, intervals[trial], gain)
