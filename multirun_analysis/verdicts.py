"""What the statistics say, in sentences for the terminal."""

from __future__ import annotations

from multirun_analysis.compare import Comparison
from multirun_analysis.statistics import ALPHA, Needed, Overfitting, Reason, Statistics
from multirun_analysis.words import percent, setting, show


def conclusions(comparison: Comparison) -> list[str]:
    """Which trials are as good as the best, which one to take, and what would tell more."""
    statistics = comparison.statistics
    lines = [_recommendation(comparison, statistics)]
    lines += [_needed(statistics.needed, statistics)] if statistics.needed and len(statistics.best_group) > 1 else []
    if statistics.left_out:
        named = ", ".join(trial.name for trial in statistics.left_out[:5])
        more = len(statistics.left_out) - 5
        named += f" and {more} more" if more > 0 else ""
        lines.append(f"Not compared, for their utterances.jsonl is missing or differs: trial {named}.")
    if statistics.beyond:
        lines.append(f"Only the {statistics.num_compared} trials with the lowest CER were compared with each other.")
    lines += [said for said in (_overfitting(verdict, comparison) for verdict in statistics.overfitting) if said]
    return [line for line in lines if line]


def _recommendation(comparison: Comparison, statistics: Statistics) -> str:
    taken, group = statistics.recommended, len(statistics.best_group)
    others = sum(pair.first is statistics.best_group[0] for pair in statistics.pairs)
    family = f"Holm's correction over all {len(statistics.pairs)} pairs, " if len(statistics.pairs) > 1 else ""
    tests = f"p < {ALPHA}, {family}{statistics.recordings} recordings"
    match statistics.reason:
        case Reason.ONLY:
            return ""
        case Reason.NO_UTTERANCES:
            return "The trials' utterances.jsonl cannot be compared; whether others are as good as the best is unknown."
        case Reason.TOO_FEW_RECORDINGS:
            return (
                f"The evaluation set has {statistics.recordings} recording{'s' if statistics.recordings != 1 else ''}: "
                "too few for intervals, or to say whether another trial is as good as the best."
            )
        case Reason.ALONE:
            rest = "the other trial is" if others == 1 else f"all {others} other trials are"
            return f"Recommended: the best one; {rest} worse ({tests})."
        case Reason.BEST_IS_CHEAPEST:
            alike, costs = ("another trial", "costs") if group == 2 else (f"{group - 1} other trials", "cost")
            return f"Recommended: the best one; {alike} cannot be told apart from it and {costs} no less ({tests})."
    name = setting(taken, comparison.swept) or taken.label
    return (
        f"Recommended: {name} (CER {percent(taken.cer, 2)}), the cheapest of {group} trials that cannot be told apart "
        f"({tests})."
    )


def _needed(needed: Needed, statistics: Statistics) -> str:
    if needed.utterances is None:
        return "The two best trials make equally many errors; no evaluation set would tell them apart."
    return (
        f"To tell the two best apart at 95 % with power {show(needed.power)}, about {needed.utterances:,} utterances "
        f"in {needed.recordings:,} recordings are needed; there are {statistics.utterances:,} in "
        f"{statistics.recordings:,}."
    )


def _overfitting(verdict: Overfitting, comparison: Comparison) -> str:
    """One sentence for an adapter whose validation loss turned; the report has the rest."""
    if verdict.kind != "turned":
        return ""
    at = f"epoch {verdict.best_epoch:g}" if verdict.best_epoch is not None else f"step {verdict.best_step}"
    trained = [param for param in comparison.swept if not param.startswith("decoding.")]
    name = setting(verdict.adapter.source, trained)
    return f"Overfitting{': ' + name if name else ''}: the validation loss was lowest at {at} and rose again."
