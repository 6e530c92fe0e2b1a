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


def test_only_those_that_sound_like_something_in_it() -> None:
    assert most_alike(WORDS, "石坚，张勇", 99) == ["张勇", "石坚"]
    assert most_alike(WORDS, "", 3) == most_alike(WORDS, "……", 3) == []
    assert most_alike(["勇", "张勇"], "张勇", 1) == ["勇"]  # equally alike


def test_a_text_that_is_a_part_of_a_word_is_not_the_word() -> None:
    assert most_alike(["恩格斯和马克思", "LP"], "恩", 2) == []
    assert most_alike(["沈嘉睿", "沈"], "沈", 2) == ["沈"]
    assert most_alike(["沈嘉睿"], "沈嘉", 1) == ["沈嘉睿"]  # nearly the whole of it
