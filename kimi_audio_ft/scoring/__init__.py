"""How good transcripts are: normalisation and error rates. Imports no torch."""

from kimi_audio_ft.scoring.error_rates import score, utterance_scores
from kimi_audio_ft.scoring.normalise import NORMALISATION_VERSION, NORMALISATIONS, normalise

__all__ = ["NORMALISATIONS", "NORMALISATION_VERSION", "normalise", "score", "utterance_scores"]
