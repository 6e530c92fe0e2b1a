"""What a user may choose about scores: words that do not count, and words that matter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kimi_audio_ft.config.train import ScoringConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring.normalise import Rule, spoken_rules


@dataclass(frozen=True)
class ScoringOptions:
    """Options of scoring; none of them changes the strict error rates.

    fillers: words left out of the normalised column, and counted as fillers beside the usual ones.
    erhua: whether the suffix 儿 counts in the normalised column.
    terms, names: words whose errors are counted as domain terms and as persons' names.
    """

    fillers: tuple[str, ...] = ()
    erhua: bool = True
    terms: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def normalised(self) -> tuple[Rule, ...]:
        """Rules of the normalised column."""
        return spoken_rules(self.fillers, self.erhua)


def read_options(config: ScoringConfig) -> ScoringOptions:
    """The options that a config names, with the words of its files.

    Raises:
        ConfigError: a file cannot be read, is not UTF-8 or holds no word.
    """
    return ScoringOptions(
        fillers=tuple(config.fillers),
        erhua=config.erhua,
        terms=_words_of("scoring.terms", config.terms),
        names=_words_of("scoring.names", config.names),
    )


def _words_of(option: str, path: str | None) -> tuple[str, ...]:
    """The words of a file, one a line; empty lines and lines that start with ``#`` are left out."""
    if path is None:
        return ()
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        rule = f"must name a text file with one word a line, and cannot be read ({error.strerror})"
        raise ConfigError(option, path, rule, "Check the path, or use null for no list") from None
    except UnicodeDecodeError as error:
        raise ConfigError(option, path, f"is not UTF-8 (byte {error.start})", "Convert the file to UTF-8") from None
    words = tuple(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))
    if not words:
        raise ConfigError(option, path, "holds no word", "Write one word a line, or use null for no list")
    return words
