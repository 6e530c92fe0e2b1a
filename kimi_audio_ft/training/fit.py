"""Fitting one adapter with Lightning, resumable at any moment."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from peft import PeftModel
from pytorch_lightning.callbacks import ModelCheckpoint

from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.lora.adapter import save_adapter, trainable_parameters
from kimi_audio_ft.schema import OptimConfig, TrainerConfig
from kimi_audio_ft.store import write_json, write_jsonl
from kimi_audio_ft.training.checkpoint import AdapterCheckpointIO
from kimi_audio_ft.training.curves import CurveRecorder, Row
from kimi_audio_ft.training.module import AdapterTraining

log = logging.getLogger(__name__)


class TrainingFailed(UserError):
    """The loss was not finite, so there is no adapter."""


class StopAtNonFinite(pl.Callback):
    """Ends a training whose loss is not finite; what follows would be wasted."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(trainer.callback_metrics["train_loss_part"])
        if not math.isfinite(loss):
            rate = trainer.optimizers[0].defaults["lr"]
            raise TrainingFailed(
                f"optim.lr={rate:g}: the training loss is {loss} at step {trainer.global_step}; "
                "it must be finite. Lower optim.lr, or set optim.max_grad_norm"
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
    recorder = CurveRecorder(settings.log_every, on_row)
    trainer = make_trainer(settings, optim, work, json.dumps(_adapter_config(model)), recorder)
    started = time.monotonic()
    with warnings.catch_warnings():
        # Lightning's advice on worker counts and logging does not fit data that is read from memory maps.
        warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning")
        trainer.fit(module, datamodule=data, ckpt_path=latest_checkpoint(work))
        if not recorder.validated_at(trainer.global_step):  # the last epoch was cut by max_steps
            trainer.validate(module, datamodule=data, verbose=False)
    seconds = time.monotonic() - started
    save_adapter(model, folder)
    write_jsonl(folder / "curves.jsonl", recorder.rows)
    write_json(folder / "data.json", data.describe())
    losses = {split: [row["loss"] for row in recorder.rows if row["split"] == split] for split in ("train", "val")}
    return {
        "steps": trainer.global_step,
        "train_seconds": round(seconds, 3),
        "trainable_parameters": trainable_parameters(model),
        "final_train_loss": losses["train"][-1] if losses["train"] else None,
        "final_val_loss": losses["val"][-1] if losses["val"] else None,
    }


def make_trainer(
    settings: TrainerConfig, optim: OptimConfig, work: Path, adapter_config: str, recorder: CurveRecorder
) -> pl.Trainer:
    """A Lightning trainer whose checkpoints hold the adapter only."""
    keep = ModelCheckpoint(
        dirpath=work,
        filename="{step:08d}",
        every_n_train_steps=settings.save_every,
        save_top_k=settings.save_keep,
        monitor="step",
        mode="max",
        save_on_exception=False,
    )
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_epochs=settings.max_epochs,
        max_steps=settings.max_steps,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=optim.max_grad_norm or None,
        # None counts micro-batches over the whole training rather than within an epoch.
        check_val_every_n_epoch=None if settings.val_every else 1,
        val_check_interval=settings.val_every * settings.accumulate if settings.val_every else None,
        reload_dataloaders_every_n_epochs=1,  # every epoch has its own plan of batches
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
        callbacks=[recorder, StopAtNonFinite(), keep],
        plugins=[AdapterCheckpointIO(adapter_config)],
        use_distributed_sampler=False,
        default_root_dir=work,
    )


def latest_checkpoint(work: Path) -> str | None:
    """The checkpoint of the most steps, or None."""
    found = sorted(work.glob("step=*"))
    if not found:
        return None
    log.info("going on from %s", found[-1])
    return str(found[-1])


def _adapter_config(model: PeftModel) -> dict[str, Any]:
    config = model.peft_config["default"].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
