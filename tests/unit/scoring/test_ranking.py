"""Each rate that can rank: of a record, of texts, and as a sum over utterances, are the same number."""

from __future__ import annotations

import pytest

from kimi_audio_ft.config.train import RATES
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring import ScoringOptions, score
from kimi_audio_ft.scoring.ranking import rate_of, rate_of_texts, utterance_edits
from kimi_audio_ft.scoring.trial_scores import score_repeats

REFERENCES = {"a": "在LPL 赛场，说7000万 de", "b": "we are here", "c": "早上好", "d": "", "e": "同音字"}
HYPOTHESES = {"a": "再LPL赛场说七千万 the", "b": "we were", "c": "", "d": "多", "e": "同音子"}


@pytest.mark.parametrize("rank_by", RATES)
def test_a_rate_of_texts_is_that_of_their_scores(rank_by: str) -> None:
    rate = rate_of_texts(REFERENCES, HYPOTHESES, rank_by, ScoringOptions())
    assert rate == rate_of(score_repeats(REFERENCES, [HYPOTHESES]), rank_by)


def test_every_rate_is_another_one() -> None:
    assert len({rate_of_texts(REFERENCES, HYPOTHESES, rank_by, ScoringOptions()) for rank_by in RATES}) == len(RATES)


def test_options_of_the_normalised_column_count() -> None:
    texts = {"a": "嗯好"}, {"a": "好"}
    assert rate_of_texts(*texts, "normalised_cer", ScoringOptions()) == 0.5
    assert rate_of_texts(*texts, "normalised_cer", ScoringOptions(fillers=("嗯",))) == 0


@pytest.mark.parametrize(("rank_by", "key"), [("mer", "mer"), ("wer", "wer"), ("pinyin", "pinyin_error_rate")])
def test_edits_of_utterances_add_up_to_the_score(rank_by: str, key: str) -> None:
    found = [utterance_edits(REFERENCES[one], HYPOTHESES[one], rank_by) for one in REFERENCES]
    edits, units = map(sum, zip(*found, strict=True))
    assert edits / units == score(REFERENCES, HYPOTHESES)[key]
    assert utterance_edits("早上 好", "早上 好", rank_by)[0] == 0


def test_an_older_record_has_no_rate_and_characters_are_not_counted_twice() -> None:
    assert rate_of({"cer": 0.1}, "mer") is None and rate_of({"cer": 0.1}, "normalised_cer") is None
    with pytest.raises(ConfigError, match="rank_by='cer': is not counted"):
        utterance_edits("早", "晚", "cer")
