"""Scores and utterance rows of a trial, and their files: ``scores.json``, ``utterances.jsonl``, ``failure.json``."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_audio_ft.files import write_json
from kimi_audio_ft.scoring import (
    CATEGORIES,
    NORMALISATION_VERSION,
    ScoringOptions,
    category_counts,
    number_accuracy,
    score,
    term_scores,
    utterance_counts,
)
from kimi_audio_ft.scoring.intervals import error_rate_interval

# Parameters that identify a trial in tables, beside whatever else its overrides name.
SHOWN = (
    "lora.r",
    "lora.lora_alpha",
    "lora.lora_dropout",
    "lora.target_modules",
    "optim.lr",
    "decoding.text_temperature",
    "decoding.text_top_k",
    "seed",
    "data.prompt",
    "data.train_subset",
    "data.train_subset_seed",
    "data.augment.speeds",
    "data.augment.gains_db",
    "data.augment.time_masks",
    "data.augment.channel_masks",
)
# The same, of trials that have some.
HOTWORDS, RETRIEVE = "prompt.hotwords", "prompt.retrieve"


@dataclass(frozen=True)
class TrialFacts:
    """A trial's label, the command that repeats it alone, and its flat config."""

    name: str
    command: str
    flat: Mapping[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        found = {key: self.flat[key] for key in SHOWN if key in self.flat}
        if self.flat.get(HOTWORDS):
            found |= {key: self.flat[key] for key in (HOTWORDS, RETRIEVE) if self.flat.get(key)}
        return found


def score_repeats(
    references: Mapping[str, str],
    hypotheses: Sequence[Mapping[str, str]],
    recordings: Mapping[str, str] | None = None,
    options: ScoringOptions | None = None,
) -> dict[str, Any]:
    """Scores of one or several samplings of an evaluation set: rates and counts are means over the repeats.

    Args:
        recordings: by id, what every utterance was cut from, for the interval of the CER; None: each is its own.
    """
    options = options or ScoringOptions()
    strict = [score(references, repeat) for repeat in hypotheses]
    normalised = [score(references, repeat, options.normalised) for repeat in hypotheses]
    rates = [row["cer"] for row in strict]
    low, high = _interval(references, hypotheses, recordings or {}) or (None, None)
    return {
        **_mean(strict),
        "normalised": _mean(normalised),
        "normalisation_version": NORMALISATION_VERSION,
        "normalisation": options.record,
        "word_lists": {"terms": list(options.terms), "names": list(options.names)},
        "cer_repeats": rates,
        "cer_std": statistics.stdev(rates) if len(rates) > 1 else 0.0,
        "cer_ci_low": low,
        "cer_ci_high": high,
        "categories": _categories(references, hypotheses, options),
        "number_accuracy": number_accuracy(references, hypotheses),
        "terms": term_scores(references, hypotheses, options.terms, options.of_terms),
    }


_OF_A_SET = ("cer", "wer", "mer", "exact_match", "num_references", "num_reference_chars")


def scores_by_set(
    sets: Mapping[str, str],
    references: Mapping[str, str],
    hypotheses: Sequence[Mapping[str, str]],
    options: ScoringOptions | None = None,
) -> dict[str, dict[str, Any]]:
    """Rates of every evaluation set by itself, means over the repeats; ``sets`` names that of each utterance, by id."""
    options = options or ScoringOptions()
    found = {}
    for name in sorted(set(sets.values())):
        own = {key: text for key, text in references.items() if sets[key] == name}
        answers = [{key: repeat[key] for key in own if key in repeat} for repeat in hypotheses]
        strict = _mean([score(own, repeat) for repeat in answers])
        normalised = _mean([score(own, repeat, options.normalised) for repeat in answers])
        found[name] = {**{key: strict[key] for key in _OF_A_SET}, "normalised_cer": normalised["cer"]}
    return found


def _mean(rows: list[dict[str, float | int]]) -> dict[str, float | int]:
    if len(rows) == 1:
        return rows[0]
    same = ("num_references", "num_reference_chars")
    return {key: rows[0][key] if key in same else statistics.fmean(row[key] for row in rows) for key in rows[0]}


def _interval(
    references: Mapping[str, str], hypotheses: Sequence[Mapping[str, str]], recordings: Mapping[str, str]
) -> tuple[float, float] | None:
    """95 % interval of the strict CER over the recordings; None when they are too few."""
    repeats = [utterance_counts(references, repeat) for repeat in hypotheses]
    return error_rate_interval(
        [statistics.fmean(counts[key].edits for counts in repeats) for key in references],
        [repeats[0][key].reference_units for key in references],
        [recordings.get(key, key) for key in references],
    )


def _categories(
    references: Mapping[str, str], hypotheses: Sequence[Mapping[str, str]], options: ScoringOptions
) -> dict[str, float | int]:
    """Edits of every category: a mean over the repeats."""
    counts: Counter[str] = Counter()
    for repeat in hypotheses:
        for key, reference in references.items():
            counts.update(category_counts(reference, repeat.get(key) or "", options))
    repeats = len(hypotheses)
    return {name: counts[name] if repeats == 1 else counts[name] / repeats for name in CATEGORIES}


def utterance_rows(
    references: Mapping[str, str],
    hypotheses: Sequence[Mapping[str, str]],
    surroundings: Mapping[str, Mapping[str, Any]],
    options: ScoringOptions | None = None,
) -> list[dict[str, Any]]:
    """One row per reference and repeat, with what ``surroundings`` says about its audio, by id.

    ``cer``, ``edits`` and ``chars`` (of the reference) are strict; ``categories`` names those that have an edit.
    """
    options = options or ScoringOptions()
    rows = []
    for repeat, answers in enumerate(hypotheses):
        strict = utterance_counts(references, answers)
        normalised = utterance_counts(references, answers, options.normalised)
        for key, reference in references.items():
            hypothesis = answers.get(key) or ""
            rows.append(
                {
                    "id": key,
                    "repeat": repeat,
                    "reference": reference,
                    "hypothesis": hypothesis,
                    "cer": strict[key].rate,
                    **surroundings[key],
                    "edits": strict[key].edits,
                    "chars": strict[key].reference_units,
                    "normalised_edits": normalised[key].edits,
                    "normalised_chars": normalised[key].reference_units,
                    "categories": dict(category_counts(reference, hypothesis, options)),
                }
            )
    return rows


def write_failure(folder: Path, facts: TrialFacts, error: Exception) -> None:
    """Write ``failure.json``, instead of scores."""
    (folder / "scores.json").unlink(missing_ok=True)
    failure = {"trial": facts.name, "error_type": type(error).__name__, "message": str(error)}
    write_json(folder / "failure.json", {**failure, "params": facts.params, "command": facts.command})
