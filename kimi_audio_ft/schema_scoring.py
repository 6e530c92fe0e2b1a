"""Structured config of the group ``scoring``: what scores forgive and what they watch. Nothing here decodes again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kimi_audio_ft.errors import ConfigError


@dataclass
class ScoringConfig:
    """Options of scores; the strict error rates are the same under all of them."""

    fillers: list[str] = field(default_factory=list)  # Words left out of the normalised column, such as ["嗯","呃"].
    erhua: bool = True  # Count the suffix 儿 in the normalised column; false takes 哪儿 for 哪 (儿子 and 女儿 stay).
    terms: str | None = None  # File of domain terms, one a line, whose errors are counted apart; null is none.
    names: str | None = None  # File of persons' names, one a line, beside those with a title (吴总); null is none.

    def __post_init__(self) -> None:
        for word in self.fillers:
            if not word.strip() or word != word.strip():
                raise ConfigError("scoring.fillers", word, "must be words without white space around them")
        for name in ("terms", "names"):
            path = getattr(self, name)
            # Now, not when hours of training are over.
            if path is not None and not Path(path).expanduser().is_file():
                rule = "must name a text file with one word a line, and there is no such file"
                raise ConfigError(f"scoring.{name}", path, rule, "Check the path, or use null for no list")
