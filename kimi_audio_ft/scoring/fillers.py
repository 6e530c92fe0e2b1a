"""Filler words and the suffix 儿: what a transcript may leave out without changing what was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import regex

# Sounds that are no words: wherever they stand, they are fillers.
FILLER_SOUNDS = ("嗯", "呃", "啊", "哦", "额", "唔", "诶", "哎", "唉")
# Words that are fillers where they are dropped or added as a whole.
FILLER_WORDS = ("那", "对", "这个", "那个", "就是", "就是说", "然后", "那么", "反正", "对吧", "是吧")

_HAN = regex.compile(r"\p{Han}")
_MARK = r"[\p{P}\p{S}]"
# 儿 that is a word's own: 女儿, 儿子; everywhere else behind a Han character it only colours the vowel.
_ERHUA = regex.compile(r"(?<=\p{Han})(?<![女婴幼孤少胎男健宠生育患妻弃产孩侄混托小])儿(?![子童女媳科歌孙戏时])")


def drop_erhua(text: str) -> str:
    """``text`` without the suffix 儿: 哪儿 becomes 哪 and 一会儿 一会, while 儿子, 女儿 and 儿童 stay.

    It is a rule over neighbouring characters, not a dictionary: behind 女 婴 幼 孤 少 胎 男 健 宠 生 育 患 妻 弃 产 孩
    侄 混 托 小, before 子 童 女 媳 科 歌 孙 戏 时, and where no Han character stands before it, 儿 is kept.
    """
    return _ERHUA.sub("", text) if "儿" in text else text


@lru_cache(maxsize=64)
def dropping(words: tuple[str, ...]) -> Callable[[str], str]:
    """A rule that leaves filler words out; the same function for the same words, to be applied before marks go.

    Sounds (``FILLER_SOUNDS``) are left out wherever they stand, Latin words wherever they stand as a word. Any other
    word is left out only where it stands alone between marks or ends of the text, because 对 in 对于 is no filler.
    """
    sounds = _any_of([word for word in words if set(word) <= set(FILLER_SOUNDS)])
    latin = _any_of([word.lower() for word in words if not _HAN.search(word)])
    other = _any_of([word for word in words if _HAN.search(word) and not set(word) <= set(FILLER_SOUNDS)])
    patterns = [
        regex.compile(pattern, regex.V1)
        for found, pattern in (
            (sounds, sounds),
            (latin, rf"(?<![[\p{{L}}\p{{N}}]--\p{{Han}}])(?:{latin})(?![[\p{{L}}\p{{N}}]--\p{{Han}}])"),
            (other, rf"(?:^|(?<={_MARK}))\s*(?:{other})+\s*(?=$|{_MARK})"),
        )
        if found
    ]

    def drop(text: str) -> str:
        for pattern in patterns:
            text = pattern.sub("", text)
        return text

    return drop


def _any_of(words: Sequence[str]) -> str:
    return "|".join(regex.escape(word) for word in sorted(words, key=len, reverse=True))
