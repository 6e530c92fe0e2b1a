"""End-of-step callbacks: learning curves and progress reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pytorch_lightning as pl

from kimi_audio_ft.training.adapters import AdapterState
from kimi_audio_ft.training.module import AdapterTraining

Row = dict[str, Any]
OnStep = Callable[[str, int, int, float, float], None]
# Between progress reports.
REPORT_SECONDS = 0.25


@dataclass
class Curve:
    """One adapter's rows, and the running sums of losses for its next training row and of its current epoch.

    seconds: of its training so far, over all attempts; in a pack an equal part of the pack's.
    """

    rows: list[Row] = field(default_factory=list)
    sum: float = 0.0
    steps: int = 0
    epoch_sum: float = 0.0
    epoch_steps: int = 0
    seconds: float = 0.0

    @property
    def epoch_loss(self) -> float:
        """Mean training loss over the steps of the current epoch, or of the last one, however often rows are added."""
        if not self.epoch_steps:  # finished, and resumed from a checkpoint of an earlier version
            return next(row["loss"] for row in reversed(self.rows) if row["split"] == "train")
        return self.epoch_sum / self.epoch_steps

    def begin_epoch(self) -> None:
        self.epoch_sum, self.epoch_steps = 0.0, 0

    def add(self, loss: float) -> None:
        """Take in the loss of a step."""
        self.sum, self.epoch_sum = self.sum + loss, self.epoch_sum + loss
        self.steps, self.epoch_steps = self.steps + 1, self.epoch_steps + 1


class CurveRecorder(pl.Callback):
    """Records ``{"step", "epoch", "split", "loss", "lr", "grad_norm"}`` rows of every adapter; saved in checkpoints.

    A training row is the mean loss of the optimizer steps since the last row, with the rate of its step and the norm of
    its gradients before clipping (None where that is not finite). A validation
    row (``validate()``) follows every ``val_every`` steps (0: every epoch) and the last step. ``on_row`` is called with
    an adapter's name and each new row.

    Validation runs here and not in Lightning's own loop, which begins after callbacks have saved: a run resumed from
    such a checkpoint would miss that validation.
    """

    def __init__(
        self,
        log_every: int,
        val_every: int,
        validate: Callable[[], dict[str, float]],
        on_row: Callable[[str, Row], None] | None = None,
    ) -> None:
        self.log_every, self.val_every, self.validate = log_every, val_every, validate
        self.on_row = on_row or (lambda name, row: None)
        self.curves: dict[str, Curve] = {}
        self._validated: tuple[int, dict[str, float]] = (-1, {})
        self._since = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, AdapterTraining)
        self._since = time.monotonic()
        self.curves = {state.name: Curve() for state in pl_module.states}

    def state_dict(self) -> dict[str, Any]:
        return {name: asdict(curve) for name, curve in self.curves.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curves = {name: Curve(**state) for name, state in state_dict.items()}
        for name, curve in self.curves.items():
            for row in curve.rows:
                self.on_row(name, row)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AdapterTraining)
        step = trainer.global_step
        epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        last = step == pl_module.num_steps
        self.curves = {state.name: self.curves[state.name] for state in pl_module.active}
        for state in pl_module.active:
            if batch_idx == 0:
                self.curves[state.name].begin_epoch()
            self._add_loss(step, epoch, state, last)
        due = step % self.val_every == 0 if self.val_every else trainer.is_last_batch
        if due or last:
            losses = self.validated(step)
            pl_module.log("val_loss", sum(losses.values()) / len(losses), prog_bar=True, logger=False)
            for name, loss in losses.items():
                self._add(name, step, epoch, "val", loss)
        now = time.monotonic()
        for curve in self.curves.values():
            curve.seconds += (now - self._since) / len(self.curves)
        self._since = now

    def validated(self, step: int) -> dict[str, float]:
        """Validation losses by adapter after this step, computed at most once per step."""
        if self._validated[0] != step:
            self._validated = (step, self.validate())
        return self._validated[1]

    def _add_loss(self, step: int, epoch: float, state: AdapterState, last: bool) -> None:
        curve = self.curves[state.name]
        curve.add(state.step_loss)
        if step % self.log_every == 0 or last:
            norm = state.grad_norm if math.isfinite(state.grad_norm) else None
            self._add(state.name, step, epoch, "train", curve.sum / curve.steps, state.rate, norm)
            curve.sum, curve.steps = 0.0, 0

    def _add(
        self,
        name: str,
        step: int,
        epoch: float,
        split: str,
        loss: float,
        rate: float | None = None,
        norm: float | None = None,
    ) -> None:
        row = {"step": step, "epoch": round(epoch, 4), "split": split, "loss": loss, "lr": rate, "grad_norm": norm}
        self.curves[name].rows.append(row)
        self.on_row(name, row)


class ReportSteps(pl.Callback):
    """Calls ``on_step`` with an adapter's name, step, number of steps and loss, and the pack's positions per second."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step
        self._since, self._tokens = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since, self._tokens = time.monotonic(), 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, AdapterTraining)
        step, steps = trainer.global_step, pl_module.num_steps
        self._tokens += pl_module.step_tokens
        seconds = time.monotonic() - self._since
        if seconds < REPORT_SECONDS and step != steps:
            return
        for state in pl_module.active:
            self.on_step(state.name, step, steps, state.step_loss, self._tokens / max(seconds, 1e-9))
        self._since, self._tokens = time.monotonic(), 0
