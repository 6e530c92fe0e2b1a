"""Hot words: names and terms of a list, behind the instruction of a prompt.

Training prompts have some that are said and some that are not, or none at all, so that the model learns to take what it
hears from the list and to leave the rest. What a conversation's prompt has depends on its id, its reference and the
options alone, and is a part of the manifest's identity.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kimi_audio_ft.config.prompt import HotwordsConfig, PromptConfig
from kimi_audio_ft.config.words import read_words
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.store.signature import digest_of

if TYPE_CHECKING:
    from kimi_audio_ft.model.text_tokenizer import TextTokenizer

OPTION = "prompt.hotwords"
RECORDED = "hotwords_identity"
"""Key of a list's digest in scores.json."""
HEADING, SEPARATOR = "\n热词：", "、"
_MOST_CHARACTERS = 64
_REMEDY = "Shorten it, or set prompt.retrieve=20: a prompt then has the words that a first text sounds most like"
_LOWER = "Lower prompt.retrieve"
# Part of the model's positions that a list may take: the rest is for the recording and its text.
_ROOM = 0.5
# Another letter or digit beside an English word makes it another word; Han characters have no such ends.
_LETTER = "[0-9a-z\u00c0-\u024f]"


def with_words(prompt: str, words: Sequence[str]) -> str:
    """A prompt with hot words behind it; without any it stays as it is."""
    return f"{prompt}{HEADING}{SEPARATOR.join(words)}" if words else prompt


@dataclass(frozen=True)
class Hotwords:
    """The words of a list, all of which every prompt has."""

    words: tuple[str, ...]

    def of(self, name: str, reference: str) -> Sequence[str]:
        """The words of a conversation's prompt, given its id and reference."""
        return self.words

    @property
    def facts(self) -> list[Any]:
        """All that prompts depend on beside their conversations (JSON)."""
        return ["all", *self.words]


@dataclass(frozen=True)
class DrawnHotwords(Hotwords):
    """Words drawn for every conversation, as options of ``PromptConfig`` say."""

    distractors: int
    said_probability: float
    seed: int

    def of(self, name: str, reference: str) -> Sequence[str]:
        rng = random.Random(f"hotwords {self.seed} {name}")
        said, others = list[str](), list[str]()
        text = _plain(reference)
        for word, stands_in in zip(self.words, _finders(self.words), strict=True):
            (said if stands_in(text) else others).append(word)
        is_told, count = rng.random() < self.said_probability, rng.randint(0, self.distractors)
        chosen = (said if is_told else []) + rng.sample(others, min(count, len(others)))
        rng.shuffle(chosen)
        return chosen

    @property
    def facts(self) -> list[Any]:
        return ["drawn", self.distractors, self.said_probability, self.seed, *self.words]


@dataclass(frozen=True)
class ChosenHotwords(Hotwords):
    """Words that are chosen for every conversation, by its id; ``words`` are all that may be chosen."""

    chosen: Mapping[str, Sequence[str]]

    def of(self, name: str, reference: str) -> Sequence[str]:
        return self.chosen[name]

    @property
    def facts(self) -> list[Any]:
        return ["chosen", digest_of({name: list(words) for name, words in self.chosen.items()})]


def read_hotwords(config: HotwordsConfig | None) -> Hotwords | None:
    """The whole list, as prompts have it that are decoded; None without one.

    Raises:
        ConfigError: the file is unreadable, not UTF-8 or empty.
        DataError: a line cannot be a word of a prompt.
    """
    return None if config is None or config.hotwords is None else Hotwords(_words_of(config.hotwords))


def read_drawn_hotwords(config: PromptConfig | None) -> DrawnHotwords | None:
    """As ``read_hotwords``, for training."""
    if config is None or config.hotwords is None:
        return None
    return DrawnHotwords(_words_of(config.hotwords), config.distractors, config.said_probability, config.hotwords_seed)


def hotwords_facts(words: Sequence[str]) -> dict[str, str]:
    """Fields of scores.json about a list, by which an edited one is known; none without words."""
    return {RECORDED: digest_of(list(words))} if words else {}


def require_room(config: HotwordsConfig | None, tokenizer: TextTokenizer, positions: int, prompt: str = "") -> None:
    """Raise a ConfigError if hot words leave too little of the model's ``positions`` to the recording.

    Args:
        prompt: that they stand behind, where it is the same for all; it is counted with them.
    """
    found = read_hotwords(config)
    if config is None or found is None:
        return
    words: Sequence[str] = found.words
    which, remedy = f"its {len(words)} words", _REMEDY
    if config.retrieve is not None:
        words = sorted(words, key=lambda word: len(tokenizer.encode(word)), reverse=True)[: config.retrieve]
        which, remedy = f"the {len(words)} longest of its words (prompt.retrieve)", _LOWER
    taken, most = len(tokenizer.encode(with_words(prompt, words))), int(_ROOM * positions)
    if taken > most:
        counted = " with the prompt" if prompt else ""
        rule = f"{which} take {taken} positions{counted}; of the model's {positions} they may take {most}"
        raise ConfigError(OPTION, config.hotwords, rule, remedy)


def typed_words(text: str) -> list[str]:
    """The words of a text such as "Kimi Audio, 沈嘉睿、市盈率": between line ends, commas and semicolons."""
    return list(dict.fromkeys(word for part in re.split(r"[\n,，、;；]", text) if (word := part.strip())))


def _words_of(path: str) -> tuple[str, ...]:
    words = read_words(OPTION, path)
    for word, line in words.items():
        if problem := problem_of(word):
            remedy = "Write one name or term a line, or null for no list"
            raise DataError(expanded(path), f"{word!r}: {problem} ({OPTION})", remedy, line)
    return tuple(words)


def problem_of(word: str) -> str | None:
    """Which rule a word of a list breaks; None for none."""
    if len(word) > _MOST_CHARACTERS:
        return f"has {len(word)} characters, and a word has at most {_MOST_CHARACTERS}"
    if not word.isprintable():
        return "holds a character that cannot be printed"
    if SEPARATOR in word:
        return f"holds {SEPARATOR}, which stands between the words of a prompt"
    if not any(map(str.isalnum, word)):
        return "has neither a letter nor a digit"
    return None


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=8)
def _finders(words: tuple[str, ...]) -> list[Callable[[str], bool]]:
    """Of every word, whether it stands in a text."""
    return [_finder(_plain(word)) for word in words]


def _finder(word: str) -> Callable[[str], bool]:
    before = f"(?<!{_LETTER})" if re.match(_LETTER, word) else ""
    behind = f"(?!{_LETTER})" if re.match(_LETTER, word[-1]) else ""
    if not before and not behind:
        return lambda text: word in text
    whole = re.compile(f"{before}{re.escape(word)}{behind}")
    return lambda text: word in text and whole.search(text) is not None
