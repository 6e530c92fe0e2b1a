"""Adapters that cannot share the base with others while they train; known before any weight, or PEFT, is read."""

from __future__ import annotations

from collections.abc import Sequence

from kimi_audio_ft.config.train import SHARDED, LoraConfig, ModelConfig, TrainerConfig
from kimi_audio_ft.lora.targets import needs_whisper


def why_solo(
    lora: LoraConfig, model: ModelConfig, trainer: TrainerConfig | None = None, targets: Sequence[str] = ()
) -> str | None:
    """Reason for which an adapter cannot train in a pack, for a log, or None. Reads no weights.

    Args:
        targets: full paths of the linears that it changes (``Base.targets``).
    """
    if lora.use_dora:
        return "lora.use_dora=true: DoRA's update is not a sum that rows can share"
    if model.quantization is not None:
        return f"model.quantization={model.quantization}: PEFT has layers of its own for a base in 4 bits"
    if trainer is not None and trainer.strategy in SHARDED:
        return f"trainer.strategy={trainer.strategy}: a sharded base trains one adapter at a time"
    if needs_whisper(targets):
        return f"lora.target_modules={lora.target_modules}: an adapted Whisper encoder cannot be computed once for all"
    return None
