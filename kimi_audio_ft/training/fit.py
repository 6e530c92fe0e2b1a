"""Fitting one adapter with Lightning, resumable at any moment."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from peft import PeftModel

from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.devices import device
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.lora.adapter import save_adapter, trainable_parameters
from kimi_audio_ft.lora.targets import needs_branch
from kimi_audio_ft.schema import OptimConfig, TrainerConfig
from kimi_audio_ft.store import write_json, write_jsonl
from kimi_audio_ft.training.checkpoint import AdapterCheckpointIO, KeepCheckpoints, latest_checkpoint
from kimi_audio_ft.training.curves import CurveRecorder, Row
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.training.strategies import make_strategy


class TrainingFailed(UserError):
    """The loss was not finite, so there is no adapter."""


class StopAtNonFinite(pl.Callback):
    """Ends a training whose loss is not finite; what follows would be wasted."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AdapterTraining)
        require_finite("training", pl_module.step_loss, pl_module.optim.lr, trainer.global_step)


def require_finite(what: str, loss: float, rate: float, step: int) -> None:
    """Raise TrainingFailed unless the loss is a finite number."""
    if not math.isfinite(loss):
        raise TrainingFailed(
            f"optim.lr={rate:g}: the {what} loss is {loss} at step {step}; it must be finite. "
            "Lower optim.lr, or set optim.max_grad_norm"
        )


def fit_adapter(
    model: PeftModel,
    data: ConversationData,
    optim: OptimConfig,
    settings: TrainerConfig,
    seed: int,
    folder: Path,
    work: Path,
    on_row: Callable[[Row], None] | None = None,
) -> dict[str, Any]:
    """Train the model's adapter and write it with its curves into ``folder``.

    Under a strategy of several ranks every one of them calls this; the first one writes and sees the rows.

    Args:
        work: folder for checkpoints; when it holds one, training goes on from there as if never interrupted.
        on_row: sees every point of the curves as it arises.

    Returns:
        Facts about the training: steps, seconds, losses, number of trained parameters.

    Raises:
        TrainingFailed: the loss was not finite.
    """
    data.setup()
    num_steps = data.num_steps(settings.max_epochs, settings.max_steps)
    num_trained = trainable_parameters(model)  # of whole parameters: they are not yet sharded
    module = AdapterTraining(model, optim, num_steps, seed)
    recorder = CurveRecorder(
        settings.log_every, settings.val_every, lambda: module.validation_loss(data.validation_batches()), on_row
    )
    trainer = make_trainer(module, settings, data.rules.ranks, work, recorder)
    started = time.monotonic()
    with warnings.catch_warnings():
        # Lightning's advice on worker counts and logging does not fit data that is read from memory maps.
        warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning")
        trainer.fit(module, datamodule=data, ckpt_path=latest_checkpoint(work))
    seconds = time.monotonic() - started
    losses = {split: [row["loss"] for row in recorder.rows if row["split"] == split] for split in ("train", "val")}
    require_finite("validation", losses["val"][-1], optim.lr, trainer.global_step)  # what the last step left behind
    if trainer.is_global_zero:
        save_adapter(model, folder, module.trained)
        write_jsonl(folder / "curves.jsonl", recorder.rows)
        write_json(folder / "data.json", data.describe())
    return {
        "steps": trainer.global_step,
        "train_seconds": round(seconds, 3),
        "trainable_parameters": num_trained,
        "final_train_loss": losses["train"][-1],
        "final_val_loss": losses["val"][-1],
    }


def make_trainer(
    module: AdapterTraining, settings: TrainerConfig, ranks: int, work: Path, recorder: CurveRecorder
) -> pl.Trainer:
    """A Lightning trainer whose checkpoints hold the adapter only."""
    place = device(settings.accelerator)
    trained = (name for name, parameter in module.model.named_parameters() if parameter.requires_grad)
    unused = needs_branch(name.removeprefix("base_model.model.") for name in trained)
    return pl.Trainer(
        accelerator="gpu" if place.type == "cuda" else "cpu",
        devices=ranks,
        strategy=make_strategy(settings, ranks, place, module.optim.max_grad_norm, unused),
        max_epochs=settings.max_epochs,
        max_steps=settings.max_steps,
        reload_dataloaders_every_n_epochs=1,  # every epoch has its own plan of batches
        logger=False,
        enable_checkpointing=False,  # KeepCheckpoints does
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
        callbacks=[StopAtNonFinite(), recorder, KeepCheckpoints(work, settings.save_every, settings.save_keep)],
        plugins=[AdapterCheckpointIO(json.dumps(_adapter_config(module.model)))],
        use_distributed_sampler=False,
        default_root_dir=work,
    )


def _adapter_config(model: PeftModel) -> dict[str, Any]:
    config = model.peft_config["default"].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
