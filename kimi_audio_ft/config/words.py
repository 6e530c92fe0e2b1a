"""Files of words, one a line: the terms and names of the scores, and hot words."""

from __future__ import annotations

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.paths import expanded


def read_words(option: str, path: str) -> dict[str, int]:
    """The words of a file and the line of each, from 1; a word that stands there twice has its first line.

    Empty lines and lines that start with ``#`` are left out. ConfigError: the file is unreadable, not UTF-8 or empty.
    """
    try:
        lines = expanded(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        rule = f"must name a text file with one word a line, and cannot be read ({error.strerror})"
        raise ConfigError(option, path, rule, "Check the path, or use null for no list") from None
    except UnicodeDecodeError as error:
        raise ConfigError(option, path, f"is not UTF-8 (byte {error.start})", "Convert the file to UTF-8") from None
    words: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            words.setdefault(line.strip(), number)
    if not words:
        raise ConfigError(option, path, "holds no word", "Write one word a line, or use null for no list")
    return words
