"""Training and validation curves, as rows that outlive an interruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from kimi_audio_ft.training.module import AdapterTraining

Row = dict[str, Any]


class CurveRecorder(pl.Callback):
    """Collects ``{"step", "epoch", "split", "loss", "lr"}`` rows; its state travels in checkpoints.

    A training row is the mean loss of the optimizer steps since the last one; its rate is the one that made its step.
    A validation row, ``validate()``, stands after every ``val_every`` steps (0: every epoch) and after the last step.
    ``on_row`` sees every row as it arises.

    Validation runs here and not in Lightning's own loop because that one begins after callbacks have saved: a run
    resumed from such a checkpoint never had that validation.
    """

    def __init__(
        self, log_every: int, val_every: int, validate: Callable[[], float], on_row: Callable[[Row], None] | None = None
    ) -> None:
        self.log_every, self.val_every, self.validate = log_every, val_every, validate
        self.on_row = on_row or (lambda row: None)
        self.rows: list[Row] = []
        self._sum, self._steps = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "sum": self._sum, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self._sum, self._steps = state_dict["sum"], state_dict["steps"]
        for row in self.rows:
            self.on_row(row)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AdapterTraining)
        step = trainer.global_step
        self._sum += pl_module.step_loss
        self._steps += 1
        epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        if step % self.log_every == 0 or step == pl_module.num_steps:
            self._add(step, epoch, "train", self._sum / self._steps, pl_module.rate)
            self._sum, self._steps = 0.0, 0
        ends_epoch = batch_idx + 1 == trainer.num_training_batches
        due = step % self.val_every == 0 if self.val_every else ends_epoch
        if due or step == pl_module.num_steps:
            loss = self.validate()
            pl_module.log("val_loss", loss, prog_bar=True, logger=False)
            self._add(step, epoch, "val", loss, None)

    def _add(self, step: int, epoch: float, split: str, loss: float, rate: float | None) -> None:
        row = {"step": step, "epoch": round(epoch, 4), "split": split, "loss": loss, "lr": rate}
        self.rows.append(row)
        self.on_row(row)
