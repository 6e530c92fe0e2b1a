"""Speech for the embedded base."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.tiny_base.speech import iterate_speech
from kimi_audio_ft.errors import UserError


def test_iterate_speech_gives_each_item_by_itself() -> None:
    three, two = list(iterate_speech("general", 3, seed=5)), list(iterate_speech("general", 2, seed=5))
    for (sentence, waveform), (same_sentence, same_waveform) in zip(three, two, strict=False):
        assert sentence == same_sentence
        np.testing.assert_array_equal(waveform, same_waveform)
    assert all(waveform.dtype == np.float32 and 0.25 < np.abs(waveform).max() < 0.96 for _, waveform in three)
    with pytest.raises(UserError, match="domain='none'"):
        next(iterate_speech("none", 1, seed=5))
