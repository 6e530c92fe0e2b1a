"""What unseen data say of the choice, in words: the test set, what was forgotten, and the luck of the choice."""

from __future__ import annotations

import shlex
from pathlib import Path

from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import Messages
from multirun_analysis.statistics.results import Gain, Interval
from multirun_analysis.unseen import Held
from multirun_analysis.words import headline, named, percent, points, trial_title


def headlines(analysis: Analysis, say: Messages) -> list[str]:
    """The result on unseen data, if there is one, and that on the evaluation set."""
    held, seen = analysis.unseen.test, headline(analysis, say)
    if held is None:
        return [seen]
    said = say(
        "headline.unseen",
        number=held.of.name,
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
        lines.append(say("unseen.waiting", file=unseen.waiting, sweep=shlex.quote(str(analysis.sweep.folder))))
    for name, guarded in unseen.guards:
        lines += [said for held in guarded if (said := _forgotten(name, held, analysis, say))]
    return lines


def _tested(held: Held, analysis: Analysis, say: Messages) -> list[str]:
    unseen, count = analysis.unseen, held.trial.record.get("num_references")
    lines = [say("unseen.tested", file=Path(str(unseen.manifest)).name, n=count)]
    gain = held.gain
    if gain is not None and gain.interval is not None:
        lines[0] += say(_verdict(gain, gain.interval), points=points(gain.difference, say), interval=_around(gain))
    if unseen.looks > 1:
        lines.append(say("unseen.looks", n=unseen.looks))
    return lines


def _verdict(gain: Gain, interval: Interval) -> str:
    if gain.shown:
        return "unseen.shown"
    if interval.low > 0:
        return "unseen.worse"
    return "unseen.open_higher" if gain.difference > 0 else "unseen.open"


def _forgotten(name: str, held: Held, analysis: Analysis, say: Messages) -> str | None:
    """What a trial has lost on a guard set; None without a base to compare with."""
    gain = held.gain
    if gain is None or held.base is None:
        return None
    interval = "" if gain.interval is None else say("unseen.interval", interval=_around(gain))
    key = "unseen.forgot" if gain.difference > 0 else "unseen.kept"
    trial = named(held.of, analysis, say)
    rates = {"cer": percent(held.trial.rate, 2), "base": percent(held.base.rate, 2)}
    return say(key, set=name, name=trial, points=points(gain.difference, say), interval=interval, **rates)


def _rate(rate: float, interval: Interval | None, say: Messages) -> str:
    if interval is None:
        return percent(rate)
    return f"{percent(rate)} ({say('tile.interval', low=percent(interval.low), high=percent(interval.high))})"


def _around(gain: Gain) -> str:
    """The interval of a difference that is told without its sign."""
    assert gain.interval is not None
    low, high = gain.interval.low, gain.interval.high
    if gain.difference < 0:
        low, high = -high, -low
    return f"{100 * low:+.2f} … {100 * high:+.2f}"
