"""Training data of a pack whose members do not share it: every step holds one of each member's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from kimi_audio_ft.data.datamodule import BatchRules, ConversationData, ResumableLoader
from kimi_audio_ft.errors import UserError


class StepsTogether:
    """Equally long rows of optimizer steps, taken side by side: ``{name: list of micro-batches}``."""

    def __init__(self, loaders: Mapping[str, ResumableLoader]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return len(next(iter(self.loaders.values())))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for steps in zip(*self.loaders.values(), strict=True):
            yield dict(zip(self.loaders, steps, strict=True))

    def state_dict(self) -> dict[str, int]:
        """As of each of them."""
        return next(iter(self.loaders.values())).state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Put each of them there."""
        for loader in self.loaders.values():
            loader.load_state_dict(state)


class DataTogether(pl.LightningDataModule):
    """Data of the members of a pack, by name; they differ in their seeds, not in what they are about."""

    def __init__(self, members: Mapping[str, ConversationData]) -> None:
        super().__init__()
        self.members = members

    @property
    def rules(self) -> BatchRules:
        """Rules of the batches, the same for all members but for the seed."""
        return next(iter(self.members.values())).rules

    def setup(self, stage: str | None = None) -> None:
        """Set up every member's data."""
        for data in self.members.values():
            data.setup()

    def num_steps(self, max_epochs: int, max_steps: int) -> int:
        """Optimizer steps of the whole training.

        Raises:
            UserError: the members' epochs do not have equally many steps.
        """
        by_epoch = {name: data.steps_by_epoch(max_epochs) for name, data in self.members.items()}
        if len(set(by_epoch.values())) > 1:
            raise UserError(f"optimizer steps by epoch differ ({by_epoch}). Train these adapters one by one")
        return next(iter(self.members.values())).num_steps(max_epochs, max_steps)

    def train_dataloader(self) -> StepsTogether:
        """This rank's optimizer steps of Lightning's current epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return StepsTogether({name: data.steps_of(epoch) for name, data in self.members.items()})

    def validation_batches(self) -> DataLoader:
        """The evaluation set, which is the same for all."""
        return next(iter(self.members.values())).validation_batches()
