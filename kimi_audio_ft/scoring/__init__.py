"""Normalisation, error rates and error categories of transcripts. Imports no torch."""

from kimi_audio_ft.scoring.categories import CATEGORIES, categorised_edits, category_counts, number_accuracy
from kimi_audio_ft.scoring.error_rates import score, utterance_counts
from kimi_audio_ft.scoring.normalise import NORMALISATION_VERSION, NORMALISATIONS, normalise
from kimi_audio_ft.scoring.terms import ScoringOptions, read_options, term_scores

__all__ = [
    "CATEGORIES",
    "NORMALISATIONS",
    "NORMALISATION_VERSION",
    "ScoringOptions",
    "categorised_edits",
    "category_counts",
    "normalise",
    "number_accuracy",
    "read_options",
    "score",
    "term_scores",
    "utterance_counts",
]
