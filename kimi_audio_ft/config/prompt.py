"""Options of hot words: names and terms of a list, put into prompts behind the instruction."""

from __future__ import annotations

from dataclasses import dataclass

from kimi_audio_ft.config.checks import at_least, expand_home, require


@dataclass
class HotwordsConfig:
    """Hot words where texts are made."""

    hotwords: str | None = None  # File of names and terms, one a line, that prompts get; null is none.
    # How many of them a prompt has where texts are made: those that a first text, made without any, sounds most like
    # (two decodings, for long lists); null is all of them.
    retrieve: int | None = None

    @property
    def retrieves(self) -> bool:
        """Whether a first text decides which words a prompt has."""
        return self.hotwords is not None and self.retrieve is not None

    def __post_init__(self) -> None:
        expand_home(self, "hotwords")
        at_least(1, self, "prompt.", "retrieve", remedy="Use null for the whole list")
        require(self.hotwords != "", "prompt.hotwords", self.hotwords, "must name a file", "Use null for none")


@dataclass
class PromptConfig(HotwordsConfig):
    """Hot words where adapters are trained too; a training prompt has some of them, in a random order.

    Every conversation's are drawn once, whatever the epoch: trials of one list are trained on the same prompts.
    """

    # Most words of a training prompt that are not in its reference; their number is drawn, from 0 up to this.
    distractors: int = 20
    # Probability with which a training prompt has the words that are in its reference.
    said_probability: float = 0.7
    hotwords_seed: int = 1  # Seed of these draws.

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "prompt.", "distractors")
        probability = self.said_probability
        require(0 <= probability <= 1, "prompt.said_probability", probability, "must lie between 0 and 1")
