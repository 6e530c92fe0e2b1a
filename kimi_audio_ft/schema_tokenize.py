"""Options of ``python -m kimi_audio_ft.tokenize``: one sentence per field, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kimi_audio_ft.schema import ModelConfig, require, require_devices


@dataclass
class TokenizeConfig:
    """``python -m kimi_audio_ft.tokenize``: semantic codes into manifests, Whisper features into the store."""

    manifests: list[str] = field(default_factory=list)  # Manifests to tokenize.
    out: str | None = None  # Folder for the pretokenized manifests; null is beside each, as NAME.tokens.jsonl.
    audio_root: str | None = None  # Folder that relative audio paths start from; null is the manifest's own folder.
    model: ModelConfig = field(default_factory=ModelConfig)
    features: bool = True  # Also store Whisper features; false computes codes only.
    batch_size: int = 8  # Pieces of 30 s, of any files, encoded together; never changes a result beyond rounding.
    devices: Any = "auto"  # Processes that share the work: auto is one per GPU, and one without any; or a number.
    readers: int = 2  # Threads of each process that decode recordings ahead of the encoders.
    threads: int = 0  # CPU threads of PyTorch in each process; 0 is its own choice, or a fair part for several.
    progress: bool = True  # Show a progress bar.

    def __post_init__(self) -> None:
        remedy = "Write manifests=[train.jsonl,eval.jsonl]"
        require(bool(self.manifests), "manifests", self.manifests, "needs at least one manifest", remedy)
        for name in ("batch_size", "readers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be 1 or more")
        require_devices("devices", self.devices)
        require(self.threads >= 0, "threads", self.threads, "must be 0 or more")
