"""What unseen data say of the choice, in words: the test set, what was forgotten, and the luck of the choice."""

from __future__ import annotations

from pathlib import Path

from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import Messages
from multirun_analysis.statistics.results import Interval
from multirun_analysis.unseen import Held
from multirun_analysis.words import headline, percent, points, trial_title


def headlines(analysis: Analysis, say: Messages) -> list[str]:
    """The result on unseen data, if there is one, and that on the evaluation set."""
    held, seen = analysis.unseen.test, headline(analysis, say)
    if held is None:
        return [seen]
    said = say(
        "headline.unseen",
        name=trial_title(held.of, analysis.swept, say),
        cer=_rate(held.trial.rate, held.interval, say),
    )
    base = say("headline.unseen_base", base=percent(held.base.rate)) if held.base else ""
    return [f"{said}{base}{say('effort.end')}", seen]


def remarks(analysis: Analysis, say: Messages) -> list[str]:
    """How much the results on unseen data prove, and how to get some where there are none."""
    unseen = analysis.unseen
    lines = [*_tested(unseen.test, analysis, say)] if unseen.test else []
    split = analysis.statistics.half_split
    if unseen.test is None and split is not None:
        luck = points(split.expected - split.lowest, say)
        figures = {"expected": percent(split.expected, 2), "best": percent(split.lowest, 2)}
        lines.append(say("unseen.half_split", luck=luck, **figures))
    if unseen.waiting is not None:
        lines.append(say("unseen.waiting", file=unseen.waiting, sweep=analysis.sweep.folder))
    for name, guarded in unseen.guards:
        lines += [said for held in guarded if (said := _forgotten(name, held, analysis, say))]
    return lines


def _tested(held: Held, analysis: Analysis, say: Messages) -> list[str]:
    unseen, count = analysis.unseen, held.trial.record.get("num_references")
    lines = [say("unseen.tested", file=Path(str(unseen.manifest)).name, n=count)]
    gain = held.gain
    if gain is not None and gain.interval is not None:
        key = "unseen.shown" if gain.shown else "unseen.worse" if gain.interval.low > 0 else "unseen.open"
        low, high = gain.interval.low, gain.interval.high
        around = Interval(-high, -low) if gain.shown else gain.interval  # a gain is told as a positive number
        lines[0] += say(key, points=points(gain.difference, say), interval=_points_between(around))
    if unseen.looks > 1:
        lines.append(say("unseen.looks", n=unseen.looks))
    return lines


def _forgotten(name: str, held: Held, analysis: Analysis, say: Messages) -> str | None:
    """What a trial has lost on a guard set; None without a base to compare with."""
    gain = held.gain
    if gain is None or held.base is None:
        return None
    interval = "" if gain.interval is None else say("unseen.interval", interval=_points_between(gain.interval))
    key = "unseen.forgot" if gain.difference > 0 else "unseen.kept"
    trial = trial_title(held.of, analysis.swept, say)
    rates = {"cer": percent(held.trial.rate, 2), "base": percent(held.base.rate, 2)}
    return say(key, set=name, name=trial, points=points(gain.difference, say), interval=interval, **rates)


def _rate(rate: float, interval: Interval | None, say: Messages) -> str:
    if interval is None:
        return percent(rate)
    return f"{percent(rate)} ({say('tile.interval', low=percent(interval.low), high=percent(interval.high))})"


def _points_between(interval: Interval) -> str:
    return f"{100 * interval.low:+.2f} … {100 * interval.high:+.2f}"
