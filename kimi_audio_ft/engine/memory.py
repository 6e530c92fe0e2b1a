"""Memory that runs out while training."""

from __future__ import annotations

import gc

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError

# How PyTorch's allocator words it on a CPU, where it raises a plain RuntimeError.
_WORDS = ("not enough memory", "can't allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def free_memory() -> None:
    """Let go of what a broken training held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(config: TrainConfig, error: BaseException) -> UserError:
    """What to say of an adapter that does not fit, trained by itself."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"lora.r={config.lora.r}: out of memory, training this adapter by itself ({first}). Lower "
        f"data.max_batch_tokens={config.data.max_batch_tokens} or data.batch_size={config.data.batch_size} (and raise "
        "trainer.accumulate), or set model.gradient_checkpointing=true"
    )
