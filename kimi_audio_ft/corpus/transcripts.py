"""Rules for transcripts: there is text, it is text, and it is what is said."""

from __future__ import annotations

import re
import unicodedata

from kimi_audio_ft.corpus.reasons import Problem

# How programs write an empty cell: pandas, SQL and spreadsheets. `None` and `none` can be said, and are kept.
_EMPTY_CELLS = {"nan", "null", "#n/a", "n/a", "<na>", "#value!", "#ref!", "#name?", "#null!", "#div/0!", "#num!"}
_TAG = re.compile(r"<[/\w|][^<>]{0,40}>|\[[^\[\]]{1,40}\]|\{[^{}]{1,40}\}")
# Format characters that belong to scripts and emoji: ZERO WIDTH (NON-)JOINER.
_JOINERS = "\u200c\u200d"


def without_tags(text: str) -> str:
    """The text without tags such as ``<unk>`` and ``[laughter]``."""
    return " ".join(_TAG.sub(" ", text).split()) if _TAG.search(text) else text


def is_empty_cell(text: str) -> bool:
    """Whether a cell holds a program's word for nothing, such as ``nan``."""
    return text.strip().casefold() in _EMPTY_CELLS


def check_transcript(text: str, tags: str = "keep") -> Problem | None:
    """Rejects transcripts that hold no text, other things than text, or tags; ``tags`` as in ``PrepareConfig``."""
    if is_empty_cell(text):
        return Problem("empty_transcript", f"transcript {text!r} is a program's word for an empty cell")
    garbled = _garbled(text)
    if garbled:
        return Problem("garbled_transcript", garbled)
    tag = _TAG.search(text) if tags == "refuse" else None
    if tag:
        detail = f"transcript {text!r} has the tag {tag[0]!r}; set tags=strip to remove tags, or tags=keep"
        return Problem("tagged_transcript", detail)
    if not num_characters(text):
        return Problem("empty_transcript", f"transcript {text!r} has no letter or digit; it must have at least 1")
    return None


def num_characters(text: str) -> int:
    """Number of letters and digits of any script; white space, punctuation and symbols do not count."""
    return sum(unicodedata.category(character)[0] in "LN" for character in text)


def same_words(first: str, second: str) -> bool:
    """Whether two transcripts differ in punctuation, spaces, width and case at most."""
    return _letters(first) == _letters(second)


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LNM")


def _garbled(text: str) -> str | None:
    for character in text:
        category = unicodedata.category(character)
        is_control = category in ("Cc", "Cf", "Co", "Cs") and character not in "\t\r\n" + _JOINERS
        if is_control or character == "\ufffd":
            name = unicodedata.name(character, "a control character")
            return f"transcript {text!r} has the character U+{ord(character):04X} ({name}), which is not text"
    if misread := _misread_utf8(text):
        return f"transcript {text!r} is UTF-8 that was read as another encoding and saved again: {misread!r}"
    return None


def _misread_utf8(text: str) -> str | None:
    """What a text would say had its UTF-8 not been read as Windows-1252, or None."""
    if text.isascii():
        return None
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None
