"""The interface text of the report and the terminal, in English and Chinese; what comes from data is not translated."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kimi_audio_ft.errors import ConfigError

PLURAL = "||"
# By key, a text in English and in Chinese.
_TEXTS = tomllib.loads((Path(__file__).parent / "texts.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Messages:
    """The catalogue of one language: ``say(key, **values)`` is a text with its values filled in.

    A text of the form ``one||many`` has a singular, taken when the value ``n`` is 1. ``{rate}`` in a text is the error
    rate that trials are ranked by.
    """

    language: str
    tag: str
    texts: Mapping[str, str]
    rate: str = "CER"

    def ranking_by(self, rank_by: str) -> Messages:
        """The same for a sweep whose trials are ranked by another of ``config.train.RATES``."""
        return replace(self, rate=self.texts[f"rate.{rank_by}"])

    def __call__(self, key: str, /, **values: object) -> str:
        one, found, many = self.texts[key].partition(PLURAL)
        text = many if found and values.get("n") != 1 else one
        return text.format(**{"rate": self.rate, **values})

    def get(self, key: str, otherwise: str) -> str:
        """A text without values; ``otherwise`` where the catalogue has none (a parameter that nobody named)."""
        return self.texts.get(key, otherwise)

    def listed(self, items: list[str]) -> str:
        """Things one after the other, as the language joins them."""
        if len(items) < 2:
            return "".join(items)
        return self("list.comma").join(items[:-1]) + self("list.and") + items[-1]


ENGLISH = Messages("en", "en", {key: english for key, (english, _) in _TEXTS.items()})
CHINESE = Messages("zh", "zh-CN", {key: chinese for key, (_, chinese) in _TEXTS.items()})
LANGUAGES = {messages.language: messages for messages in (ENGLISH, CHINESE)}


def messages_in(language: str) -> Messages:
    """The catalogue of ``language``.

    Raises:
        ConfigError: there is none.
    """
    if language not in LANGUAGES:
        raise ConfigError("language", language, f"the report is written in {' or '.join(LANGUAGES)}")
    return LANGUAGES[language]
