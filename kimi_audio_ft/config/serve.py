"""Options of ``python -m kimi_audio_ft.serve``: one sentence per field, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kimi_audio_ft.config.checks import at_least, expand_home, one_of, require
from kimi_audio_ft.config.train import DecodingConfig, ModelConfig
from kimi_audio_ft.config.transcribe import PAUSES, WINDOWS, SpeechConfig, require_piece_length

BASE = "base"
"""The name by which requests ask for the base alone."""
RECOMMENDED = "recommended"
"""The name by which requests ask for the recommended trial of ``sweep``."""
KEY_VARIABLE = "KIMI_AUDIO_FT_API_KEY"
"""Environment variable with the key that requests must bring; unset: everyone may ask."""


@dataclass
class ServeConfig:
    """``python -m kimi_audio_ft.serve``: texts of uploaded recordings, by OpenAI's interface."""

    # Adapters by the name that requests give as their model, each a folder in PEFT's format or a signature in the
    # store: 'adapters={meetings: SIGNATURE, calls: my/adapter}'. The base alone is always there, as "base".
    adapters: Any = None
    # Folder of a finished sweep: its recommended trial is served as "recommended", with that trial's prompt, hot words,
    # decoding and seed. All adapters then have its model, data.features and decoding.batch_size. What is given here
    # stays, and so do the hot words of a request.
    sweep: str | None = None
    any_base: bool = False  # Use adapters on another base than the one that they were trained on.
    host: str = "127.0.0.1"  # Address to listen on; 0.0.0.0 lets other machines ask.
    port: int = 8000  # Port to listen on; 0 takes a free one.
    max_megabytes: float = 25.0  # Largest request.
    max_minutes: float = 60.0  # Longest recording.
    # Audio of all requests at work or waiting, which lies in memory; further ones are refused with 429.
    max_total_minutes: float = 240.0
    max_requests: int = 64  # Requests at work or waiting at a time; further ones are refused with 429.
    # Where recordings longer than max_seconds are cut: pauses (found by silero-vad), or windows of equal length.
    cut: str = PAUSES
    max_seconds: float = 30.0  # Longest piece, in seconds; shorter ones make better subtitles.
    data: SpeechConfig = field(default_factory=SpeechConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    # batch_size pieces of waiting requests are decoded together. A request's temperature replaces text_temperature.
    # engine=vllm has a running vLLM server decode (decoding.vllm.url), and its adapters are offered.
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    threads: int = 0  # CPU threads of PyTorch; 0 is its own choice.
    seed: int = 1  # Seed of sampling.

    def __post_init__(self) -> None:
        self.adapters = self.adapters or {}
        expand_home(self, "adapters", "sweep")
        named = isinstance(self.adapters, dict) and all(
            isinstance(part, str) and part for pair in self.adapters.items() for part in pair
        )
        rule, remedy = "must name adapters", "Write 'adapters={NAME: SIGNATURE_OR_FOLDER}'"
        require(named, "adapters", self.adapters, rule, remedy)
        require(BASE not in self.adapters, "adapters", self.adapters, f"{BASE} is the base alone", "Use another name")
        taken = self.sweep is not None and RECOMMENDED in self.adapters
        rule = f"{RECOMMENDED} is the recommended trial of the sweep that is given as well"
        require(not taken, "adapters", self.adapters, rule, "Use another name")
        require(self.sweep != "", "sweep", self.sweep, "must name one", "Use null for none")
        require(bool(self.host), "host", self.host, "must be an address", "Use 127.0.0.1 for this machine only")
        require(0 <= self.port < 65536, "port", self.port, "must be a port: 0 (a free one) to 65535")
        for name in ("max_megabytes", "max_minutes"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be greater than 0")
        enough = self.max_total_minutes >= self.max_minutes
        rule = f"must be max_minutes ({self.max_minutes:g}) or more"
        require(enough, "max_total_minutes", self.max_total_minutes, rule)
        at_least(1, self, "", "max_requests")
        at_least(0, self, "", "threads")
        self.decoding.require_engine_fits(self.model, self.data.features, server=True)
        one_of("cut", self.cut, (PAUSES, WINDOWS))
        require_piece_length(self.max_seconds)
