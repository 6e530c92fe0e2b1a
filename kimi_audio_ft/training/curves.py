"""Training and validation curves, as rows that outlive an interruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

Row = dict[str, Any]


class CurveRecorder(pl.Callback):
    """Collects ``{"step", "epoch", "split", "loss", "lr"}`` rows; its state travels in checkpoints.

    A training row is the mean loss of the optimizer steps since the last one. ``on_row`` sees every row as it arises.
    """

    def __init__(self, log_every: int, on_row: Callable[[Row], None] | None = None) -> None:
        self.log_every = log_every
        self.on_row = on_row or (lambda row: None)
        self.rows: list[Row] = []
        self._sum, self._steps, self._last_step, self._epoch = 0.0, 0, 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        counters = {"sum": self._sum, "steps": self._steps, "last_step": self._last_step, "epoch": self._epoch}
        return {"rows": self.rows, **counters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self._sum, self._steps = state_dict["sum"], state_dict["steps"]
        self._last_step, self._epoch = state_dict["last_step"], state_dict["epoch"]
        for row in self.rows:
            self.on_row(row)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        # Micro-batch losses are parts of their step's mean, so a step's loss is their sum.
        self._sum += float(trainer.callback_metrics["train_loss_part"])
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self._steps += 1
        if trainer.global_step % self.log_every == 0 or trainer.global_step == pl_module.num_steps:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self._add(trainer, "train", self._sum / self._steps, rate)
            self._sum, self._steps = 0.0, 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._add(trainer, "val", float(trainer.callback_metrics["val_loss"]), None)

    def validated_at(self, step: int) -> bool:
        """Whether there is a validation loss of this optimizer step."""
        return any(row["split"] == "val" and row["step"] == step for row in self.rows)

    def _add(self, trainer: pl.Trainer, split: str, loss: float, rate: float | None) -> None:
        row = {"step": trainer.global_step, "epoch": round(self._epoch, 4), "split": split, "loss": loss, "lr": rate}
        self.rows.append(row)
        self.on_row(row)
