"""Options of ``python -m kimi_audio_ft.transcribe``: one sentence per field, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from kimi_audio_ft.config.checks import at_least, count_or_auto, expand_home, one_of, require
from kimi_audio_ft.config.prompt import HotwordsConfig
from kimi_audio_ft.config.train import DecodingConfig, ModelConfig

FORMATS = ("jsonl", "csv", "srt", "vtt")
PAUSES, WINDOWS = "pauses", "windows"
# Seconds. Shorter pieces would cut sentences; longer ones the encoders cut, every 30 s, wherever a word may be.
_SHORTEST, _LONGEST = 5.0, 30.0


@dataclass
class SpeechConfig:
    """How recordings are put to the model; named as in ``train``, whose groups ``prompt`` set the same."""

    # Instruction that precedes every recording; null is the one that the adapter was trained with.
    prompt: str | None = None
    # Whisper features. cached: encode once into the store; online: encode while decoding; none: codes only.
    features: str = "cached"

    def __post_init__(self) -> None:
        one_of("data.features", self.features, ("cached", "online", "none"))
        if self.prompt is not None:
            rule, remedy = "must not be empty", "Use null for the one of the adapter"
            require(bool(self.prompt.strip()), "data.prompt", self.prompt, rule, remedy)


@dataclass
class TranscribeConfig:
    """``python -m kimi_audio_ft.transcribe``: recordings of any length become texts."""

    # Recordings: a file, a folder with those inside it, a pattern such as calls/**/*.wav, or a list of these.
    audio: Any = MISSING
    out: str = MISSING  # Folder for the texts, made if absent.
    # Adapter folder in PEFT's format, a signature in the store, or the folder of a sweep, which recommends one; null is
    # the base alone.
    adapter: str | None = None
    # Folder of a finished sweep: takes the adapter of its recommended trial, and that trial's model, prompt and
    # decoding unless they are given here.
    sweep: str | None = None
    any_base: bool = False  # Use an adapter on another base than the one that it was trained on.
    # Formats beside transcripts.jsonl, which is always written: csv (a row for each piece), srt or vtt (subtitles for
    # each recording); one, or a list.
    format: Any = "jsonl"
    # Also write surest.csv, a corpus to train on: the surest pieces, so much of the audio that has a whole text (0.5 is
    # half of it; texts cut by the limit of tokens are no part of it). By the agreement of samples where there are some,
    # then by avg_logprob; null writes none.
    surest: float | None = None
    # Where recordings longer than max_seconds are cut: pauses (found by silero-vad), or windows of equal length.
    cut: str = PAUSES
    max_seconds: float = 30.0  # Longest piece, in seconds; shorter ones make better subtitles.
    channel: int | None = None  # Channel of the recordings to transcribe, a number from 0; null mixes all.
    data: SpeechConfig = field(default_factory=SpeechConfig)
    prompt: HotwordsConfig = field(default_factory=HotwordsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    # With repeats and a temperature above 0 every piece is sampled `repeats` times, and its text is the sample that
    # differs least from the others.
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    devices: Any = "auto"  # Processes that share the work: auto is one per GPU, and one without any; or a number.
    readers: int = 4  # Threads that check and decode recordings.
    threads: int = 0  # CPU threads of PyTorch in each process; 0 is its own choice, or a fair part for several.
    progress: bool = True  # Show progress.
    seed: int = 1  # Seed of sampling.

    def __post_init__(self) -> None:
        self.audio, self.format = _as_list(self.audio), _as_list(self.format)
        expand_home(self, "audio", "out", "adapter", "sweep")
        named = bool(self.audio) and all(isinstance(name, str) and name for name in self.audio)
        require(named, "audio", self.audio, "must name recordings", "Write audio=FILE, FOLDER or a list of them")
        require(bool(self.out), "out", self.out, "must name a folder", "Write out=FOLDER")
        require(bool(self.format), "format", self.format, "needs at least one", f"Use {', '.join(FORMATS)}")
        for name in self.format:
            one_of("format", name, FORMATS)
        part = self.surest is None or 0 < self.surest <= 1
        require(part, "surest", self.surest, "must be greater than 0 and at most 1", "Use null for none")
        one_of("cut", self.cut, (PAUSES, WINDOWS))
        require_piece_length(self.max_seconds)
        at_least(0, self, "", "channel", "threads")
        at_least(1, self, "", "readers")
        count_or_auto("devices", self.devices)
        for option, value in (("adapter", self.adapter), ("sweep", self.sweep)):
            require(value != "", option, value, "must name one", "Use null for none")
        both = self.adapter is not None and self.sweep is not None
        rule = f"adapter={self.adapter!r} is given as well, and a sweep's is that of its recommended trial"
        require(not both, "sweep", self.sweep, rule, "Give one of them")
        self.decoding.require_engine_fits(self.model, self.data.features)


def require_piece_length(seconds: float) -> None:
    """Raise a ConfigError unless pieces may be so long."""
    rule = f"must lie between {_SHORTEST:g} and {_LONGEST:g} s"
    require(_SHORTEST <= seconds <= _LONGEST, "max_seconds", seconds, rule)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]
