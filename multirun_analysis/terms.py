"""The user's terms (``scoring.terms``): how well every trial heard each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from multirun_analysis.collect import Trial
from multirun_analysis.compare import Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.words import trial_title

# What the page holds at most; trials.json has all.
MOST_TERMS = 500
MOST_FIGURES = 60_000

Figures = list[float | None]


@dataclass(frozen=True)
class TermColumn:
    """What one trial or base made of the terms: recall and precision in percent, None without any occurrence."""

    title: str
    trial: Trial
    recall: Figures
    precision: Figures


@dataclass(frozen=True)
class TermTable:
    """Terms, the most frequent ones first, and the trials of the leaderboard in its order.

    spoken: times in the references, of one decoding. first, second: places in ``columns`` of what is shown at first:
    the best trial and the base (without one, the next trial; alone, itself). more_terms, more_trials: what is left out.
    """

    terms: list[str]
    spoken: list[float]
    columns: list[TermColumn]
    first: int
    second: int
    more_terms: int
    more_trials: int

    @property
    def figures(self) -> list[tuple[Figures, Figures]]:
        """Recalls and precisions of every column."""
        return [(column.recall, column.precision) for column in self.columns]


def term_table(comparison: Comparison, say: Messages) -> TermTable | None:
    """The table of a sweep with a list of terms; None for any other."""
    found = [row.trial for row in comparison.rows if terms_of(row.trial)]
    best = comparison.best.trial
    if not found or not terms_of(best):
        return None
    counts = terms_of(best)
    terms = sorted(counts, key=lambda term: -counts[term]["in_references"])[:MOST_TERMS]
    base = comparison.best.base or comparison.lowest_base
    most = max(2, MOST_FIGURES // (2 * len(terms)))
    shown = [trial for place, trial in enumerate(found) if place < most or trial is best or trial is base]
    first = next(place for place, trial in enumerate(shown) if trial is best)
    others = [place for place in range(len(shown)) if place != first]
    second = next((place for place in others if shown[place] is base), (others or [first])[0])
    repeats = len(best.record.get("cer_repeats") or [0])
    return TermTable(
        terms=terms,
        spoken=[counts[term]["in_references"] / repeats for term in terms],
        columns=[_column(trial, terms, comparison, say) for trial in shown],
        first=first,
        second=second,
        more_terms=len(counts) - len(terms),
        more_trials=len(found) - len(shown),
    )


def terms_of(trial: Trial) -> dict[str, dict[str, Any]]:
    """A trial's terms as scores.json has them; empty without a list of terms."""
    return trial.record.get("terms") or {}


def _column(trial: Trial, terms: list[str], comparison: Comparison, say: Messages) -> TermColumn:
    found = terms_of(trial)
    recall, precision = ([_percent(found.get(term, {}).get(key)) for term in terms] for key in ("recall", "precision"))
    return TermColumn(trial_title(trial, comparison.swept, say), trial, recall, precision)


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 1)
