"""Scores and utterance rows of a synthetic corpus, counted on its texts in the commands' own formats.

The same counts as ``kimi_audio_ft.scoring.score``, at a fraction of its time: the texts are made so that a
normalisation only takes marks away, and have no white space inside.
"""

from __future__ import annotations

import statistics
from typing import Any

from rapidfuzz.distance import Levenshtein

from kimi_audio_ft.scoring.error_rates import EditCounts
from kimi_audio_ft.scoring.intervals import bootstrap_interval
from kimi_audio_ft.scoring.normalise import NORMALISATION_VERSION
from tests.synthetic_errors import MARKS, Corpus

Record = dict[str, Any]

_NO_MARKS = str.maketrans("", "", MARKS)
# The edits of an utterance are dealt to these in turn.
_CATEGORIES = (
    *("homophone_same_tone", "other", "person_name", "homophone_other_tone", "filler", "other", "number_format"),
    *("punctuation", "abbreviation", "domain_term", "homophone_same_tone", "number_value", "other"),
)


class Scorer:
    """Scores samplings of one corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.recordings = [f"rec-{place:03d}" for place in corpus.recording_of]
        self.ids = [f"{recording}-{place:05d}" for place, recording in enumerate(self.recordings)]
        self.plain = [text.translate(_NO_MARKS) for text in corpus.references]

    def scored(self, samplings: list[list[str]]) -> tuple[Record, list[Record]]:
        """The entries of scores.json, means over the samplings, and the rows of utterances.jsonl."""
        repeats = len(samplings)
        each = [self._one(hypotheses, repeat) for repeat, hypotheses in enumerate(samplings)]
        rows = [row for _, some in each for row in some]
        scores = [one for one, _ in each]
        categories = {name: sum(row["categories"].get(name, 0) for row in rows) / repeats for name in _CATEGORIES}
        cers = [one["cer"] for one in scores]
        return {
            **_mean(scores),
            "normalised": {
                **_mean([one["normalised"] for one in scores]),
                **self._interval(rows, "normalised_", repeats),
            },
            "categories": categories,
            "normalisation_version": NORMALISATION_VERSION,
            "normalisation": {"fillers": [], "erhua": True},
            "word_lists": {"terms": [], "names": []},
            "cer_repeats": cers,
            "cer_std": statistics.stdev(cers) if repeats > 1 else 0.0,
            **self._interval(rows, "", repeats),
        }, rows

    def _one(self, hypotheses: list[str], repeat: int) -> tuple[Record, list[Record]]:
        """Scores and rows of one sampling."""
        counts, rows = EditCounts(), []
        for place, hypothesis in enumerate(hypotheses):
            before = _edits(counts)
            counts.add(self.corpus.references[place], hypothesis)
            rows.append(self._row(place, repeat, hypothesis, _edits(counts) - before))
        plain_rate = sum(row["normalised_edits"] for row in rows) / sum(map(len, self.plain))
        normalised = {
            **_rates(counts, sum(row["normalised_edits"] > 0 for row in rows), len(rows)),
            **{"cer": plain_rate, "mer": plain_rate, "num_reference_chars": sum(map(len, self.plain))},
        }
        strict = _rates(counts, sum(row["edits"] > 0 for row in rows), len(rows))
        return {**strict, "mer": plain_rate, "normalised": normalised}, rows

    def _row(self, place: int, repeat: int, hypothesis: str, edits: int) -> Record:
        reference, plain, recording = self.corpus.references[place], self.plain[place], self.recordings[place]
        dealt = [_CATEGORIES[(place + 5 * edit) % len(_CATEGORIES)] for edit in range(edits)]
        return {
            "id": self.ids[place],
            "repeat": repeat,
            "reference": reference,
            "hypothesis": hypothesis,
            "cer": edits / len(reference),
            "audio": f"wavs/{recording}/{self.ids[place]}.wav",
            "recording": recording,
            "seconds": round(0.24 * len(reference), 2),
            "edits": edits,
            "chars": len(reference),
            "normalised_edits": Levenshtein.distance(plain, hypothesis.translate(_NO_MARKS)) if edits else 0,
            "normalised_chars": len(plain),
            "categories": {name: dealt.count(name) for name in dict.fromkeys(dealt)},
        }

    def _interval(self, rows: list[Record], prefix: str, repeats: int) -> Record:
        count = len(self.ids)
        edits = [sum(row[f"{prefix}edits"] for row in rows[place::count]) / repeats for place in range(count)]
        chars = [row[f"{prefix}chars"] for row in rows[:count]]
        low, high = bootstrap_interval(edits, chars, self.recordings) or (None, None)
        return {"cer_ci_low": low, "cer_ci_high": high}


def _mean(rows: list[Record]) -> Record:
    """Means of the figures; counts of references stay whole."""
    means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0] if key != "normalised"}
    return means | {key: rows[0][key] for key in ("num_references", "num_reference_chars")}


def _edits(counts: EditCounts) -> int:
    return counts.substitutions + counts.deletions + counts.insertions


def _rates(counts: EditCounts, wrong: int, references: int) -> Record:
    """Figures of a corpus without white space inside its references: a word is an utterance."""
    return {
        "cer": counts.rate,
        "wer": wrong / references,
        "mer": counts.rate,
        "exact_match": 1 - wrong / references,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "num_references": references,
        "num_reference_chars": counts.reference_units,
        "empty_outputs": 0,
        "empty_rate": 0.0,
        "over_generation_rate": 0.0,
        "pinyin_error_rate": 0.8 * counts.rate,
    }
