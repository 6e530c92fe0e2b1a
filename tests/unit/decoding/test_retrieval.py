"""Which words of a list a first text sounds like."""

from __future__ import annotations

from kimi_audio_ft.decoding.retrieval import most_alike, sounds_of

WORDS = ["张勇", "沈嘉睿", "市盈率", "石坚", "LP", "Kimi Audio", "5G", "期终分红"]


def test_mandarin_sounds_like_its_syllables_and_the_rest_like_its_letters() -> None:
    assert sounds_of("沈嘉睿的ＬＰ，kimi-audio 5G。") == " shen jia rui de lp kimi audio 5g "
    assert sounds_of("，") == " "


def test_the_best_come_first() -> None:
    assert most_alike(WORDS, "审家瑞说市应率涨了", 2) == ["沈嘉睿", "市盈率"]
    assert most_alike(WORDS, "期中分红", 1) == ["期终分红"]  # a homophone
    assert most_alike(WORDS, "kimi 奥迪欧的 lp", 2) == ["LP", "Kimi Audio"]
    assert most_alike(["LP", "MVP"], "helps 的 mvp", 1) == ["MVP"]  # a part of another word is less alike


def test_as_many_as_there_are() -> None:
    assert sorted(most_alike(WORDS, "石坚", 99)) == sorted(WORDS)
    assert most_alike(WORDS, "", 3) == WORDS[:3]  # equally unlike
