"""Options of ``python -m kimi_audio_ft.merge``: one sentence per field, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kimi_audio_ft.schema import ModelConfig, one_of, require


@dataclass
class MergeConfig:
    """An adapter and its base become one checkpoint in the published layout."""

    adapter: str = MISSING  # Adapter folder in PEFT's format, or a signature in the store.
    out: str = MISSING  # Folder of the merged checkpoint; it must not exist, or hold the same merge.
    model: ModelConfig = field(default_factory=ModelConfig)  # The base that the adapter was trained on.
    target: str = "official"  # Who shall load it: official (the published code; ours too) or vllm.
    shard_gb: float = 2.8  # Largest shard in 10^9 bytes; the 7B makes 8 shards of 2.8.
    dtype: str = "bfloat16"  # Number format of the merged decoder: bfloat16 as published, or float32.
    overwrite: bool = False  # Replace what an earlier merge wrote to out.
    verify: str = "auto"  # Compare logits with base + adapter: true, false, or auto (when that takes under 5 GB).
    progress: bool = True  # Show a progress bar.

    def __post_init__(self) -> None:
        self.verify = self.verify.lower()
        require(
            bool(self.adapter), "adapter", self.adapter, "must name an adapter", "See python -m kimi_audio_ft.store ls"
        )
        require(bool(self.out), "out", self.out, "must name a folder", "Write out=FOLDER")
        one_of("target", self.target, ("official", "vllm"))
        one_of("dtype", self.dtype, ("bfloat16", "float32"))
        one_of("verify", self.verify, ("auto", "true", "false"))
        require(self.shard_gb > 0, "shard_gb", self.shard_gb, "must be greater than 0", "2.8 gives the 7B 8 shards")
