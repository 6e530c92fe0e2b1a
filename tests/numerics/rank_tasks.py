"""What ranks of the strategy tests run: a module of its own, because spawned processes import their task by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import SHARDED, TrainConfig
from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.data.dataset import Sample
from kimi_audio_ft.runtime.workers import Send
from kimi_audio_ft.training.adapters import AdapterSpec


def fit_with_features(rank: int, send: Send, config: TrainConfig, folder: Path, dtype: str, rows: int) -> None:
    """Train with random features of some dtype; ``rows`` beyond 0 cuts those of each recording, as at 30 s."""
    from kimi_audio_ft.data.dataset import ConversationDataset
    from kimi_audio_ft.model.checkpoint import read_config
    from kimi_audio_ft.runtime.libraries import quiet_libraries
    from kimi_audio_ft.training.module import AdapterTraining
    from kimi_audio_ft.trial import Trial

    torch.set_num_threads(1)
    quiet_libraries()
    trial = Trial(config)
    trial.base.sharded = config.trainer.strategy in SHARDED
    trial.base.features = "cached"  # there will be some, though not of the recordings, which do not exist
    width = read_config(trial.base.files.root).kimia_adaptor_input_dim
    plain = ConversationDataset.__getitem__

    def with_features(self: ConversationDataset, item: Any) -> Sample:
        sample = plain(self, item)
        count = sum(sample.layout.is_continuous_mask)
        generator = torch.Generator().manual_seed(count)
        features = torch.randn(count, width, generator=generator).to(getattr(torch, dtype))
        sample.features = [features[:rows] if rows else features]
        return sample

    ConversationDataset.__getitem__ = with_features  # type: ignore[method-assign]
    formats: dict[str, set[str]] = {"base": set(), "adapter": set()}
    start = AdapterTraining.forward

    def watched(self: AdapterTraining, *arguments: Any) -> Tensor:
        for name, parameter in self.named_parameters():
            formats["adapter" if "lora_" in name else "base"].add(str(parameter.dtype))
        return start(self, *arguments)

    AdapterTraining.forward = watched  # type: ignore[method-assign]
    try:
        facts = trial.fit(folder, folder / "work", None)
    finally:
        ConversationDataset.__getitem__ = plain  # type: ignore[method-assign]
        AdapterTraining.forward = start  # type: ignore[method-assign]
    if rank == 0:
        send(facts | {name: sorted(found) for name, found in formats.items()})


def fit_all_with_features(rank: int, send: Send, trainings: list[tuple[TrainConfig, Path, str, int]]) -> None:
    """Several trainings, one after another: starting the processes takes longer."""
    for training in trainings:
        fit_with_features(rank, send, *training)


def as_on_a_gpu(rank: int, send: Send, positions: int | None, task: Callable[..., None], *arguments: Any) -> None:
    """A task that trains, with a GPU's masks; positions: the most of a pass, for passes that are filled."""
    from kimi_audio_ft.training import fit

    unfilled = fit.fill_passes

    def filled(base: Base, module: Any, specs: Any, data: Sequence[ConversationData]) -> dict[str, Any]:
        unfilled(base, module, specs, data)
        for one in data:
            one.pass_positions = positions
        return {"passes": positions}

    fit.fill_passes = filled
    mask_by_sample(setattr)
    task(rank, send, *arguments)


def mask_by_sample(change: Callable[[Any, str, Any], None]) -> None:
    """Have dropout's masks made as on a GPU: those of a sample are the same in any pass."""
    from kimi_audio_ft.training.module import AdapterTraining

    def seed_masks(self: AdapterTraining, batch: dict[str, Any], epoch: int) -> None:
        for (state, _, length), target in zip(batch["micro_batches"], batch["targets"], strict=True):
            answers = (target.rows_N, target.columns_N)
            state.dropout.by_place(state.seed, epoch, target.samples_R, length, answers, target.codes_N)

    change(AdapterTraining, "seed_masks", seed_masks)
    change(AdapterTraining, "flat", False)  # a layout of CPUs


def fit_packs(rank: int, send: Send, config: TrainConfig, packs: dict[str, tuple[list[AdapterSpec], Any]]) -> None:
    """Several packs by name (members, and who asks to stop), one after another, likewise."""
    for name, pack in packs.items():
        fit_pack(rank, lambda value, name=name: send((name, value)), config, *pack)


def fit_pack(
    rank: int, send: Send, config: TrainConfig, members: list[AdapterSpec], stop: tuple[int, int] | None = None
) -> None:
    """One rank's part in training a pack. stop: the rank that asks to stop, and after which step."""
    from kimi_audio_ft.runtime.libraries import quiet_libraries
    from kimi_audio_ft.runtime.signals import Interrupted
    from kimi_audio_ft.training.fit import fit_adapters
    from kimi_audio_ft.trial import Trial

    torch.set_num_threads(1)
    quiet_libraries()
    trial, steps = Trial(config, rank), iter(range(1, 1000))
    try:
        results = fit_adapters(
            trial.base,
            members,
            trial.data,
            config.trainer,
            on_row=lambda name, row: send((rank, name, row["step"])),
            should_stop=lambda: stop is not None and stop == (rank, next(steps)),
        )
    except Interrupted as end:
        send((rank, "interrupted", end.step))
        return
    for name, result in results.items():
        send((rank, name, result if isinstance(result, dict) else str(result)))
