"""Text normalisation before scoring.

Three named normalisations exist (``NORMALISATIONS``), each a tuple of rules that are applied in order:

``strict``
    the text as it is, apart from white space around it and Unicode composition (NFC): the number to publish;
``normalised``
    also ignores case, width, punctuation, white space next to Han characters, and the writing of numbers (7000万 is
    七千万, see ``spoken_numbers``): what was *said*;
``normalised_no_fillers``
    the same without filler sounds (嗯 呃 啊 哦 ...) and without the suffix 儿.

A rule is a function from text to text; ``spoken_rules`` makes the normalisations of a user's options, and wherever a
name is taken, a tuple of rules is taken too. Scores are only comparable under the same ``NORMALISATION_VERSION``: raise
it whenever a rule's output changes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

import regex

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring.spoken_numbers import fold_numerals, spell_numbers
from kimi_audio_ft.scoring.variants import fold_readings, simplify

# Sounds that are no words: wherever they stand, they are fillers.
FILLER_SOUNDS = ("嗯", "呃", "啊", "哦", "额", "唔", "诶", "哎", "唉")
# Words that are fillers if they are dropped or added as a whole.
FILLER_WORDS = ("那", "对", "这个", "那个", "就是", "就是说", "然后", "那么", "反正", "对吧", "是吧")

# 额 that is no word's: not in 额度, 金额.
_ALONE = "(?<![份金余数差总名限税定巨足超配面全小大高等票售业交易款资润前匾缺满保员费收支产值])额(?![度外头定角叶满])"
_HAN = regex.compile(r"\p{Han}")
_MARK = r"[\p{P}\p{S}]"
# 儿 that is a word's own: 女儿, 儿子; everywhere else behind a Han character it only colours the vowel.
_ERHUA = regex.compile(r"(?<=\p{Han})(?<![女婴幼孤少胎男健宠生育患妻弃产孩侄混托小])儿(?![子童女媳科歌孙戏时])")

# 2: numbers are spelt as they are said. 3: those in Latin words too (K12 is k十二), and those beside a space (2024 年).
# 4: marks that are words stay (AA+, C#, >5%, we're), units and codes are said (3kg, RMB100), and Wi-Fi is wifi.
NORMALISATION_VERSION = 4

Rule = Callable[[str], str]
Normalisation = str | tuple[Rule, ...]

# A mark that belongs to a number: 2.5  10:30  3/4  3-5  12,000  50%  36°  $5  -5. A comma belongs to one only as a
# thousands separator, because NFKC turns the "，" of a counted list (1，2，3) into a comma too.
_NUMBER_MARK = r"""(?:
      (?<=\p{Nd}) [.:/-] (?=\p{Nd})
    | (?<=\p{Nd}) , (?=\p{Nd}{3}(?!\p{Nd}))
    | (?<=\p{Nd}) [%‰°]
    | (?<![[\p{L}\p{N}]--\p{Han}]) [+-] (?=\p{Nd})
    | [±<>≤≥≈] (?=\p{Nd})
    | \p{Sc} (?=\p{Nd})
)"""
# The class comes first: few characters are marks, and only around those is the context examined.
_OTHER_MARK = regex.compile(rf"(?=[\p{{P}}\p{{S}}])(?!{_NUMBER_MARK}).", regex.VERBOSE | regex.V1)
_LATIN = r"[[\p{L}]--\p{Han}]"
# don't, don’t: an apostrophe is a part of its word; every other mark stands between words.
_APOSTROPHE = regex.compile(rf"(?<={_LATIN})['’](?={_LATIN})", regex.V1)
_KEPT_APOSTROPHE = "\ue000"  # while marks are removed; of private use, so that no rule knows it
# e-mail, Wi-Fi: one word, where the part in front is no word
_PREFIX = regex.compile(rf"(?<![[\p{{L}}\p{{N}}]--\p{{Han}}])({_LATIN}{{1,2}})-(?={_LATIN}{{2}})", regex.V1)
# AA+, C++ and C#
_PLUS = regex.compile(rf"(?<={_LATIN}\+*)\+(?!{_LATIN}|\p{{N}})", regex.V1)
_SHARP = regex.compile(rf"(?<!{_LATIN}|\p{{N}})([a-g])#(?!{_LATIN}|\p{{N}})", regex.V1)
# Zero-width characters and other format or control codes; those that are white space (tab, newline) are kept here.
_INVISIBLE = regex.compile(r"[^\P{C}\s]")
_SPACE_AT_HAN = regex.compile(r"(?=\s)(?:(?<=\p{Han})\s+|\s+(?=\p{Han}))")


_ANY_DIGIT = re.compile(r"\d")


def rules_of(normalisation: Normalisation) -> tuple[Rule, ...]:
    """The rules of a normalisation, in order; ``UserError`` for a name that does not exist."""
    if not isinstance(normalisation, str):
        return normalisation
    try:
        return NORMALISATIONS[normalisation]
    except KeyError:
        remedy = f"Use one of {', '.join(NORMALISATIONS)}"
        raise ConfigError("normalisation", normalisation, "no such normalisation", remedy) from None


@lru_cache(maxsize=50_000)
def normalise(text: str, normalisation: Normalisation = "strict") -> str:
    """``text`` normalised; ``UserError`` for a name that does not exist.

    Memoised, as every trial of a sweep is scored against the same references.
    """
    return apply(rules_of(normalisation), text)


@lru_cache(maxsize=64)
def spoken_rules(
    fillers: tuple[str, ...] = (), erhua: bool = True, traditional: bool = True, readings: bool = True
) -> tuple[Rule, ...]:
    """Rules of the ``normalised`` column.

    Args:
        fillers: words that are left out, see ``dropping``.
        erhua: whether the suffix 儿 stays.
        traditional: whether traditional characters stay.
        readings: whether the several readings of a time, a temperature and the like stay, see ``fold_readings``.
    """
    fillers = fillers if traditional else tuple(map(simplify, fillers))
    dropped: list[Rule] = [dropping(fillers)] if fillers else []
    dropped += [] if erhua else [drop_erhua]
    # Composed at the end too: a removed mark may have stood between a letter and its accent.
    rules: tuple[Rule, ...] = (
        fold_width_and_case,
        *(() if traditional else (simplify,)),
        *dropped,
        say_marks,
        spell_numbers,
        drop_marks,
        fold_spaces,
        fold_numerals,
        *(() if readings else (fold_readings,)),
        compose,
    )
    return (_until_settled(rules),) if dropped else rules


def _until_settled(rules: tuple[Rule, ...]) -> Rule:
    """All rules, repeated while they change something: removed marks may leave a filler alone."""

    def settle(text: str) -> str:
        while (changed := apply(rules, text)) != text:
            text = changed
        return text

    return settle


def apply(rules: tuple[Rule, ...], text: str) -> str:
    for rule in rules:
        text = rule(text)
    return text


def compose(text: str) -> str:
    """Unicode NFC, so that a letter with an accent is one character however it was typed."""
    return unicodedata.normalize("NFC", text)


def fold_width_and_case(text: str) -> str:
    """Unicode NFKC (full width to half, ligatures apart) and lower case."""
    # Lower-casing can undo the composition ("İ" becomes two characters), hence the second pass.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())


def drop_marks(text: str) -> str:
    """Remove punctuation, symbols and invisible characters; marks inside numbers stay.

    A removed mark leaves a space, so that "LPL，OK" stays two words; ``fold_spaces`` removes superfluous ones.
    """
    if not text.isprintable():
        text = _INVISIBLE.sub("", text)
    text = _APOSTROPHE.sub(_KEPT_APOSTROPHE, text) if "'" in text or "’" in text else text
    text = _OTHER_MARK.sub(" ", text) if _ANY_DIGIT.search(text) else text.translate(_MARKS)
    return text.replace(_KEPT_APOSTROPHE, "'")


def say_marks(text: str) -> str:
    """Say a word's marks: AA+ is aa加, C# c sharp. A hyphen behind one or two letters is not said: Wi-Fi is wifi."""
    if "+" in text:
        text = _PLUS.sub("加", text)
    if "#" in text:
        text = _SHARP.sub(r"\1 sharp", text)
    return _PREFIX.sub(r"\1", text) if "-" in text else text


def fold_spaces(text: str) -> str:
    """Remove white space next to Han characters, where it says nothing, and make every other run one space."""
    words = text.split()
    return " ".join(words) if len(words) < 2 else " ".join(_SPACE_AT_HAN.sub("", text).split())


class _Marks(dict[int, str]):
    """For ``str.translate``: every mark becomes a space. Several times as fast as a pattern."""

    def __missing__(self, code: int) -> str:
        self[code] = " " if unicodedata.category(chr(code))[0] in "PS" else chr(code)
        return self[code]


_MARKS = _Marks()


def drop_erhua(text: str) -> str:
    """``text`` without the suffix 儿: 哪儿 becomes 哪 and 一会儿 一会, while 儿子, 女儿 and 儿童 stay.

    It is a rule over neighbouring characters, not a dictionary: behind 女 婴 幼 孤 少 胎 男 健 宠 生 育 患 妻 弃 产 孩
    侄 混 托 小, before 子 童 女 媳 科 歌 孙 戏 时, and where no Han character stands before it, 儿 is kept.
    """
    return _ERHUA.sub("", text) if "儿" in text else text


@lru_cache(maxsize=64)
def dropping(words: tuple[str, ...]) -> Callable[[str], str]:
    """A rule that leaves filler words out, to be applied before marks are removed; memoised by the words.

    Sounds (``FILLER_SOUNDS``) are left out wherever they stand, Latin words wherever they stand as a word. Any other
    word is left out only where it stands alone between marks or ends of the text, because 对 in 对于 is no filler.
    """
    sounds = _any_of([word for word in words if set(word) <= set(FILLER_SOUNDS)]).replace("额", _ALONE)
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


NORMALISATIONS: dict[str, tuple[Rule, ...]] = {
    "strict": (str.strip, compose),
    "normalised": spoken_rules(),
    "normalised_no_fillers": spoken_rules(FILLER_SOUNDS, erhua=False),
}
