"""What the statistics say, in sentences of either language: the group of the best, the recommendation, overfitting.

The page and the terminal say the same.
"""

from __future__ import annotations

from multirun_analysis.collect import Trial
from multirun_analysis.compare import Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.scored_alike import version_of
from multirun_analysis.statistics import Needed, Overfitting, Reason, Statistics
from multirun_analysis.words import adapter_name, percent, points, setting, show

MOST_NAMED = 6
MOST_RECORDED = 100_000  # utterances: no test set has more, so a larger number tells nobody anything
_WITHOUT_TESTS = (Reason.ONLY, Reason.TOO_FEW_RECORDINGS, Reason.NO_UTTERANCES)


def recommendation(comparison: Comparison, say: Messages) -> str:
    """Which trial to take, and why it and no other."""
    statistics = comparison.statistics
    taken, group = statistics.recommended, len(statistics.best_group)
    counted = {Reason.BEST_IS_CHEAPEST: group - 1, Reason.TOO_FEW_RECORDINGS: statistics.recordings}
    compared = sum(pair.first is statistics.best_group[0] for pair in statistics.pairs)
    return say(
        f"verdict.{statistics.reason}",
        n=counted.get(statistics.reason, compared),
        name=name_of(taken, comparison, say),
        cer=percent(taken.cer, 2),
        group=group,
    )


def conclusions(comparison: Comparison, say: Messages) -> list[str]:
    """The recommendation, and all that goes with it."""
    return [recommendation(comparison, say), *verdicts(comparison, say)]


def verdicts(comparison: Comparison, say: Messages) -> list[str]:
    """What goes with the recommendation: how it was tested, what more data would tell, which adapters overfitted."""
    statistics = comparison.statistics
    lines = []
    if statistics.reason not in _WITHOUT_TESTS:
        lines.append(_method(statistics, say))
    if statistics.needed is not None and len(statistics.best_group) > 1:
        lines.append(_needed(statistics.needed, comparison, say))
    if len(comparison.sweep.finished) > 1 and version_of(comparison.best.trial) is None:
        lines.append(say("verdict.unstated"))
    if statistics.left_out:
        names = _some([trial.name for trial in statistics.left_out], say)
        lines.append(say("verdict.left_out", n=len(statistics.left_out), names=names))
    if statistics.beyond:
        lines.append(say("verdict.beyond", n=statistics.num_compared))
    turned = [verdict for verdict in statistics.overfitting if verdict.kind == "turned"]
    if turned:
        names = _some([_place(one, comparison, say) for one in turned], say)
        lines.append(say("verdict.turned", n=len(turned), names=names))
    return lines


def overfitting_in_words(verdict: Overfitting, say: Messages) -> str:
    """The verdict over one adapter."""
    return say(f"overfit.{verdict.kind}", at=where(verdict, say))


def where(verdict: Overfitting, say: Messages) -> str:
    """Where the validation loss was lowest: an epoch, or a step where epochs were not logged."""
    if verdict.best_epoch is not None:
        return say("overfit.epoch", n=f"{verdict.best_epoch:g}")
    return "–" if verdict.best_step is None else say("overfit.step", n=verdict.best_step)


def name_of(trial: Trial, comparison: Comparison, say: Messages) -> str:
    """A trial by what differs from its siblings."""
    return setting(trial, comparison.swept, say) or trial.label


def _place(verdict: Overfitting, comparison: Comparison, say: Messages) -> str:
    return say("verdict.place", name=adapter_name(verdict.adapter, comparison, say), at=where(verdict, say))


def _method(statistics: Statistics, say: Messages) -> str:
    return say(
        "verdict.method",
        n=len(statistics.pairs),
        recordings=f"{statistics.recordings:,}",
        resamples=f"{statistics.resamples:,}",
    )


def _needed(needed: Needed, comparison: Comparison, say: Messages) -> str:
    names = {side: name_of(getattr(needed, side), comparison, say) for side in ("first", "second")}
    if needed.utterances is None or needed.recordings is None:
        return say("verdict.needed_never", **names)
    if needed.utterances > MOST_RECORDED:
        return say(
            "verdict.needed_beyond", **names, difference=points(needed.difference, say), most=f"{MOST_RECORDED:,}"
        )
    return say(
        "verdict.needed",
        **names,
        power=show(needed.power),
        utterances=f"{needed.utterances:,}",
        recordings=f"{needed.recordings:,}",
        have_utterances=f"{comparison.statistics.utterances:,}",
        have_recordings=f"{comparison.statistics.recordings:,}",
    )


def _some(names: list[str], say: Messages) -> str:
    """The first names, and an ellipsis for the rest."""
    return say.listed(names) if len(names) <= MOST_NAMED else say("list.comma").join([*names[:MOST_NAMED], "…"])
