"""A user's options of scoring, and recall and precision of the terms of their list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kimi_audio_ft.config.train import ScoringConfig
from kimi_audio_ft.config.words import read_words
from kimi_audio_ft.scoring.normalise import Normalisation, Rule, normalise, spoken_rules
from kimi_audio_ft.scoring.spans import word_spans
from kimi_audio_ft.scoring.variants import converter


@dataclass(frozen=True)
class ScoringOptions:
    """Options of scoring; none of them changes the strict error rates.

    fillers: words left out of the normalised column, and counted as fillers beside the usual ones.
    erhua: whether the suffix 儿 counts in the normalised column.
    simplified_by: package and version that make traditional characters simplified ones in the normalised column and in
        terms; None leaves them.
    readings: whether another reading of the same time, temperature and the like counts there.
    terms, names: words whose errors are counted as domain terms and as persons' names.
    """

    fillers: tuple[str, ...] = ()
    erhua: bool = True
    terms: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    simplified_by: str | None = None
    readings: bool = True

    @property
    def normalised(self) -> tuple[Rule, ...]:
        """Rules of the normalised column."""
        return spoken_rules(self.fillers, self.erhua, self.simplified_by is None, self.readings)

    @property
    def of_terms(self) -> tuple[Rule, ...]:
        """Rules under which terms are looked for: those of the normalised column, but nothing is left out."""
        return spoken_rules((), True, self.simplified_by is None, self.readings)

    @property
    def record(self) -> dict[str, Any]:
        """What scores.json says of the normalised column; an option that is newer than the record only if it is set."""
        own: dict[str, Any] = {"fillers": list(self.fillers), "erhua": self.erhua}
        own |= {} if self.simplified_by is None else {"traditional": f"false ({self.simplified_by})"}
        return own | ({} if self.readings else {"readings": False})


def read_options(config: ScoringConfig) -> ScoringOptions:
    """The options of a config, with the words of its files; ConfigError if one is unreadable, not UTF-8 or empty."""
    return ScoringOptions(
        fillers=tuple(sorted(set(config.fillers))),
        erhua=config.erhua,
        simplified_by=None if config.traditional else converter(),
        readings=config.readings,
        terms=_words_of("scoring.terms", config.terms),
        names=_words_of("scoring.names", config.names),
    )


def _words_of(option: str, path: str | None) -> tuple[str, ...]:
    return () if path is None else tuple(read_words(option, path))


def term_scores(
    references: Mapping[str, str],
    hypotheses: Sequence[Mapping[str, str]],
    terms: Sequence[str],
    rules: Normalisation = "normalised",
) -> dict[str, dict[str, float | None]]:
    """By term, occurrences in the references, in the hypotheses, and in both for the same utterance (``found``).

    Summed over the repeats of an evaluation; with recall and precision, fractions, None without an occurrence. Terms
    are looked for in normalised texts, so that case, width, marks and the writing of numbers do not matter; where two
    overlap, the longer one counts. An utterance's occurrences count as found up to the smaller of its two numbers.
    """
    spelt = {form: term for term in terms for form in _forms(term, rules)}
    expected, given, found = Counter[str](), Counter[str](), Counter[str]()
    for repeat in hypotheses:
        for key, reference in references.items():
            here = _occurrences(reference, spelt, rules)
            there = _occurrences(repeat.get(key) or "", spelt, rules)
            expected.update(here)
            given.update(there)
            found.update(here & there)
    return {
        term: {
            "in_references": expected[term],
            "in_hypotheses": given[term],
            "found": found[term],
            "recall": found[term] / expected[term] if expected[term] else None,
            "precision": found[term] / given[term] if given[term] else None,
        }
        for term in terms
    }


def _forms(term: str, rules: Normalisation) -> set[str]:
    """A term as it is in other languages and in Mandarin, where its numbers are spelt: iPhone 15."""
    spoken = normalise(f"词，{term}，词", rules).removeprefix("词").removesuffix("词")
    return {normalise(term, rules).casefold(), spoken.casefold()}


def _occurrences(text: str, spelt: Mapping[str, str], rules: Normalisation) -> Counter[str]:
    text = normalise(text, rules)
    words = (text[start:end].casefold() for start, end in word_spans(text, [word for word in spelt if word]))
    return Counter(spelt[word] for word in words if word in spelt)  # strasse is found in straße
