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
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.lora.adapter import save_adapter, trainable_parameters
from kimi_audio_ft.schema import OptimConfig, TrainerConfig
from kimi_audio_ft.store import write_json, write_jsonl
from kimi_audio_ft.training.checkpoint import AdapterCheckpointIO, KeepCheckpoints, latest_checkpoint
from kimi_audio_ft.training.curves import CurveRecorder, Row
from kimi_audio_ft.training.module import AdapterTraining


class TrainingFailed(UserError):
    """The loss was not finite, so there is no adapter."""


class StopAtNonFinite(pl.Callback):
    """Ends a training whose loss is not finite; what follows would be wasted."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rate = trainer.optimizers[0].defaults["lr"]
        require_finite("training", float(trainer.callback_metrics["train_loss_part"]), rate, trainer.global_step)


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
    module = AdapterTraining(model, optim, settings.accumulate, num_steps, seed)
    recorder = CurveRecorder(
        settings.log_every, settings.val_every, lambda: module.validation_loss(data.validation_batches()), on_row
    )
    trainer = make_trainer(settings, optim, work, json.dumps(_adapter_config(model)), recorder)
    started = time.monotonic()
    with warnings.catch_warnings():
        # Lightning's advice on worker counts and logging does not fit data that is read from memory maps.
        warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning")
        trainer.fit(module, datamodule=data, ckpt_path=latest_checkpoint(work))
    seconds = time.monotonic() - started
    losses = {split: [row["loss"] for row in recorder.rows if row["split"] == split] for split in ("train", "val")}
    require_finite("validation", losses["val"][-1], optim.lr, trainer.global_step)  # what the last step left behind
    save_adapter(model, folder)
    write_jsonl(folder / "curves.jsonl", recorder.rows)
    write_json(folder / "data.json", data.describe())
    return {
        "steps": trainer.global_step,
        "train_seconds": round(seconds, 3),
        "trainable_parameters": trainable_parameters(model),
        "final_train_loss": losses["train"][-1],
        "final_val_loss": losses["val"][-1],
    }


def make_trainer(
    settings: TrainerConfig, optim: OptimConfig, work: Path, adapter_config: str, recorder: CurveRecorder
) -> pl.Trainer:
    """A Lightning trainer whose checkpoints hold the adapter only."""
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_epochs=settings.max_epochs,
        max_steps=settings.max_steps,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=optim.max_grad_norm or None,
        reload_dataloaders_every_n_epochs=1,  # every epoch has its own plan of batches
        logger=False,
        enable_checkpointing=False,  # Lightning's own would also save between the micro-batches of a step
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
        callbacks=[StopAtNonFinite(), recorder, KeepCheckpoints(work, settings.save_every, settings.save_keep)],
        plugins=[AdapterCheckpointIO(adapter_config)],
        use_distributed_sampler=False,
        default_root_dir=work,
    )


def _adapter_config(model: PeftModel) -> dict[str, Any]:
    config = model.peft_config["default"].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
