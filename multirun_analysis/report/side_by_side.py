"""Every utterance under all compared trials, packed small: the page shows any two of them side by side.

utterances.js in templates/ unpacks and shows it. Texts are many and alike, so a text that several trials wrote is there
once, and the whole is compressed, which also leaves no character of a user's text in the page's source.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kimi_audio_ft.manifest.part import Part
from kimi_audio_ft.scoring.normalise import normalise
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import Messages
from multirun_analysis.report.utterances import place_of
from multirun_analysis.statistics.results import Pair
from multirun_analysis.statistics.tally import Transcripts
from multirun_analysis.sweep import Trial
from multirun_analysis.words import entry

MOST_CHARACTERS = 2_000_000  # of different texts; what is packed takes about one character in the page for each
LONGEST = 2_000  # characters of one text: runaway output has more
FEWEST_TRIALS = 3
NOTABLE = 4  # utterances that one trial gained most on and lost most on, whose recordings are in the page
AGREEMENT = 0.75
"""Share of the adapters that must write the same other text before a reference is suspected."""


@dataclass(frozen=True)
class Suspect:
    """A reference that ``count`` of ``adapters`` contradict, all with the same ``text``."""

    text: str
    count: int
    adapters: int


@dataclass(frozen=True)
class SideBySide:
    """Trials to choose from, and all that is shown of them.

    choices: keys and titles of the trials, the best first. trial, other: keys of the two that are shown at first.
    packed: the texts, edits and pairs; base64 of a gzip of JSON, as ``_content`` makes it.
    more_trials, more_utterances: how many are left out for the page's size.
    clips: ids of the utterances that the two differ most on, with their recordings.
    """

    choices: list[tuple[str, str]]
    trial: str
    other: str
    packed: str
    more_trials: int
    more_utterances: int
    clips: list[tuple[str, Path | None, Part]]

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.choices]


def suspects(found: Transcripts | None) -> dict[str, Suspect]:
    """Utterances, by id, of which most adapters write one text that says something else than the reference.

    Each adapter has one vote, its best trial's: its other decodings make the same mistakes. The base is one of them.
    """
    if found is None:
        return {}
    voters: dict[str, int] = {}
    for row, trial in enumerate(found.tally.trials):
        voters.setdefault("base" if trial.is_base else trial.record.get("signature") or trial.name, row)
    least = max(2, math.ceil(AGREEMENT * len(voters)))
    told = {}
    ballots = zip(*(found.texts[row] for row in voters.values()), strict=True)
    for name, reference, ballot in zip(found.ids, found.references, ballots, strict=True):
        [(text, count)] = Counter(ballot).most_common(1)
        if count >= least and text != reference and _said(text) != _said(reference):
            told[name] = Suspect(normalise(text), count, len(voters))
    return told


def side_by_side(analysis: Analysis, suspected: dict[str, Suspect], say: Messages) -> SideBySide | None:
    """What the page shows of every utterance; None without two trials whose utterances can be compared."""
    found, statistics = analysis.statistics.transcripts, analysis.statistics
    if found is None or len(found.tally.trials) < 2:
        return None
    trials = found.tally.trials
    base = next((trial for trial in trials if trial.is_base), None)
    chosen = statistics.choice if statistics.choice in trials else trials[0]
    other = base if base not in (None, chosen) else next(trial for trial in trials if trial is not chosen)
    assert other is not None
    rows = _rows_with_room(found, [chosen, other])
    places = _places_with_room(found, rows)
    audio = {str(line["id"]): (line.get("audio"), Part.of(line)) for line in analysis.best.trial.utterances}
    sources = {name: (Path(file) if file else None, part) for name, (file, part) in audio.items()}
    content = _content(analysis, found, rows, places, suspected)
    content["sources"] = [place_of(*sources.get(found.ids[place], (None, Part())), say) for place in places]
    edges = [trials.index(trial) for trial in (chosen, other)]
    return SideBySide(
        choices=[(_key(trials[row]), entry(trials[row], analysis.swept, say)) for row in rows],
        trial=_key(chosen),
        other=_key(other),
        packed=_packed(content),
        more_trials=len(trials) - len(rows),
        more_utterances=len(found.ids) - len(places),
        clips=[(found.ids[place], *sources.get(found.ids[place], (None, Part()))) for place in _notable(found, *edges)],
    )


def _key(trial: Trial) -> str:
    """Names a trial in the page's address."""
    return f"base-{trial.name}" if trial.is_base else trial.name


def _said(text: str) -> str:
    """A reference that lacks a full stop is no wrong one."""
    return normalise(text, "normalised")


def _rows_with_room(found: Transcripts, needed: Sequence[Trial]) -> list[int]:
    """Rows of the trials that are in the page: the needed ones, then the best, as long as their texts have room."""
    trials = found.tally.trials
    order = sorted(range(len(trials)), key=lambda row: (trials[row] not in needed, row))
    seen: list[set[str]] = [{text} for text in found.references]
    used = sum(map(len, found.references))
    kept: list[int] = []
    for row in order:
        for text, known in zip(found.texts[row], seen, strict=True):
            used += min(len(text), LONGEST) if text not in known else 0
            known.add(text)
        if used > MOST_CHARACTERS and len(kept) >= FEWEST_TRIALS:
            break
        kept.append(row)
    return sorted(kept)


def _places_with_room(found: Transcripts, rows: list[int]) -> list[int]:
    """Utterances that are in the page: all, or of very many those with the most edits, in their own order."""
    texts = [found.references, *(found.texts[row] for row in rows)]
    sizes = [sum(min(len(text), LONGEST) for text in set(here)) for here in zip(*texts, strict=True)]
    if sum(sizes) <= MOST_CHARACTERS:
        return list(range(len(sizes)))
    worst = np.argsort(-found.tally.mean_edits[rows].sum(axis=0), kind="stable")
    fitting = int(np.searchsorted(np.cumsum(np.array(sizes)[worst]), MOST_CHARACTERS, side="right"))
    return sorted(worst[:fitting].tolist())


def _content(
    analysis: Analysis, found: Transcripts, rows: list[int], places: list[int], suspected: dict[str, Suspect]
) -> dict[str, Any]:
    """What is packed, by name; each list of utterances is in their order, each list of trials in that of the choices.

    texts: of each utterance the different ones, its reference first; a long one as its begin and how much is cut.
    which: for each trial, which of them it wrote. edits: of each trial, summed over its ``repeats``.
    settings: of each trial. pairs: two settings, the difference of their rates, its interval and adjusted p, as in
        ``Pair``; a trial is its own setting where no seeds are swept.
    suspects: number of adapters that write one other text, and of all, by place.
    """
    texts, which = [], []
    for place in places:
        known = {normalise(found.references[place]): 0}
        which.append([known.setdefault(normalise(found.texts[row][place]), len(known)) for row in rows])
        texts.append([text if len(text) <= LONGEST else [text[:LONGEST], len(text) - LONGEST] for text in known])
    tally, statistics = found.tally, analysis.statistics
    numbers = {tally.trials[row]: number for number, row in enumerate(rows)}
    settings = {trial: place for place, setting in enumerate(analysis.settings) for trial in setting.trials}
    shown = {settings[trial] for trial in numbers}
    return {
        "ids": [found.ids[place] for place in places],
        "texts": texts,
        "which": which,
        "edits": tally.edits[np.ix_(rows, places)].T.tolist(),
        "repeats": tally.repeats[rows].tolist(),
        "rates": tally.rates[rows].round(6).tolist(),
        "recommended": numbers.get(statistics.recommended),
        "base": next((number for trial, number in numbers.items() if trial.is_base), None),
        "settings": [settings[trial] for trial in numbers],
        "pairs": [
            [settings[pair.first], settings[pair.second], *_figures(pair)]
            for pair in statistics.pairs
            if {settings[pair.first], settings[pair.second]} <= shown
        ],
        "suspects": {
            number: [one.text, one.count, one.adapters]
            for number, place in enumerate(places)
            if (one := suspected.get(found.ids[place]))
        },
    }


def _figures(pair: Pair) -> list[float]:
    bounds = [pair.interval.low, pair.interval.high] if pair.interval else []
    tested = [pair.p_adjusted] if pair.interval and pair.p_adjusted is not None else []
    return [round(figure, 6) for figure in (pair.difference, *bounds, *tested)]


def _packed(content: dict[str, Any]) -> str:
    """The same for the same content, as the whole page is: a gzip's time is left out."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)).decode("ascii")


def _notable(found: Transcripts, trial: int, other: int) -> list[int]:
    """The utterances that the trial gained most on against the other one, and lost most on."""
    gained = found.tally.mean_edits[other] - found.tally.mean_edits[trial]
    order = np.argsort(-gained, kind="stable").tolist()
    both = dict.fromkeys([*order[:NOTABLE], *order[: -NOTABLE - 1 : -1]])
    return [place for place in both if gained[place]]
