"""The adapters of a training: what is asked of each, and what is its own while they train together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from kimi_audio_ft.config.train import LoraConfig, OptimConfig
from kimi_audio_ft.lora.adapter import ONE
from kimi_audio_ft.lora.pack import Place
from kimi_audio_ft.runtime.signals import TrainingFailed
from kimi_audio_ft.training.schedule import rate_factor


@dataclass(frozen=True)
class Member:
    """One adapter that is to be trained.

    name: without dots; its training signature, or anything else that no other member has.
    folder: where the finished adapter is written. work: where its checkpoints are kept, and may be from earlier.
    """

    name: str
    lora: LoraConfig
    optim: OptimConfig
    seed: int
    folder: Path
    work: Path


@dataclass(eq=False)
class Learner:
    """An adapter while it trains: its optimizer's values, its place in dropout's masks, its last step.

    rate: the learning rate of the last step. step_loss: that step's loss, over all ranks.
    failure: why it takes part no longer.
    """

    optim: OptimConfig
    seed: int
    name: str = ONE
    rate: float = 0.0
    step_loss: float = 0.0
    failure: TrainingFailed | None = None
    place: Place = field(default_factory=Place)

    def factor(self, num_steps: int) -> Callable[[int], float]:
        """Its schedule over so many steps."""
        return rate_factor(self.optim.schedule, num_steps, self.optim.warmup_ratio)

    def owns(self, parameter: str) -> bool:
        """Whether a parameter of that name is its own."""
        return f".{self.name}." in parameter


def rename(values: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """One adapter's values by parameter name, out of several adapters', under another adapter's name."""
    return {key.replace(f".{old}.", f".{new}."): value for key, value in values.items() if f".{old}." in key}
