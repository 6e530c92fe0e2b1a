"""Training data of a pack whose members do not share it: a step contains one step of each member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from kimi_audio_ft.data.batching import StepsTogether
from kimi_audio_ft.data.datamodule import Collate, ConversationData, ResumableLoader
from kimi_audio_ft.data.dataset import Draw, Sample, Samples
from kimi_audio_ft.errors import UserError


class SamplesTogether(Dataset[Any]):
    """Samples of every member's draws, by its name, from one set of worker processes for all of them."""

    def __init__(self, members: Mapping[str, Samples]) -> None:
        self.members = members

    def __getitems__(self, draws: Mapping[str, list[Draw]]) -> dict[str, list[Sample] | UserError]:
        return {name: self.members[name].__getitems__(own) for name, own in draws.items()}


@dataclass
class CollateTogether:
    """Micro-batches of every member, by its name; the error of the first that has one."""

    members: Mapping[str, Collate]

    def __call__(self, samples: Mapping[str, list[Sample] | UserError]) -> Any:
        error = next((one for one in samples.values() if isinstance(one, UserError)), None)
        return error or {name: self.members[name](own) for name, own in samples.items()}


class DataTogether(pl.LightningDataModule):
    """Data of a pack's members by name; only their seeds differ."""

    def __init__(self, members: Mapping[str, ConversationData]) -> None:
        super().__init__()
        self.members, self._first = members, next(iter(members.values()))
        self.rules = self._first.rules  # equal for all members except for the seed

    @property
    def parts(self) -> list[ConversationData]:
        """Every member's data."""
        return list(self.members.values())

    def setup(self, stage: str | None = None) -> None:
        for data in self.members.values():
            data.setup()

    def num_steps(self, max_epochs: int, max_steps: int) -> int:
        """Optimizer steps of the whole training; UserError if the members' epochs differ in their number."""
        by_epoch = {name: data.steps_by_epoch(max_epochs) for name, data in self.members.items()}
        if len(set(by_epoch.values())) > 1:
            raise UserError(f"optimizer steps by epoch differ ({by_epoch}). Train these adapters one by one")
        return self._first.num_steps(max_epochs, max_steps)

    def train_dataloader(self) -> ResumableLoader:
        """This rank's optimizer steps of Lightning's current epoch: ``{name: list of micro-batches}``."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        members = self.members
        sets = {name: data.train_set for name, data in members.items()}
        steps = {name: data.epoch_steps(epoch) for name, data in members.items()}
        collate = CollateTogether({name: data.collate() for name, data in members.items()})
        largest = sum(data.most_positions for data in members.values())
        return self._first.loader(SamplesTogether(sets), StepsTogether(steps), collate, largest)

    def validation_batches(self) -> DataLoader:
        """The evaluation set, shared by all members."""
        return self._first.validation_batches()
