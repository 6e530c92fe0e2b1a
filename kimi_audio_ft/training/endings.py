"""Callbacks at the end of every step: who has failed, how fast it goes, and whether the training ends here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from kimi_audio_ft.runtime.signals import Leave, TrainingFailed, require_finite
from kimi_audio_ft.training.checkpoint import KeepCheckpoints
from kimi_audio_ft.training.curves import CurveRecorder
from kimi_audio_ft.training.module import AdapterTraining

log = logging.getLogger(__name__)

OnStep = Callable[[str, int, int, float, float], None]
OnFailure = Callable[[str, TrainingFailed], None]
# Seconds between two reports of steps.
_REPORT_EVERY = 0.25


class StopAtNonFinite(pl.Callback):
    """Takes an adapter whose loss is not finite out of the training; what follows would be wasted on it."""

    def __init__(self, on_failure: OnFailure | None = None) -> None:
        self.on_failure = on_failure or (lambda name, failure: None)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AdapterTraining)
        for learner in pl_module.active:
            try:
                require_finite("training", learner.step_loss, learner.optim.lr, trainer.global_step)
            except TrainingFailed as failure:
                learner.failure = failure
                if pl_module.active:
                    log.warning("%s leaves its pack: %s", learner.name, failure)
                self.on_failure(learner.name, failure)
        if not pl_module.active:
            raise Leave


class ReportSteps(pl.Callback):
    """Tells ``on_step`` every adapter's step, all steps, loss, and the positions per second of all of them."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step
        self._since, self._tokens = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since, self._tokens = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AdapterTraining)
        step, steps = trainer.global_step, pl_module.num_steps
        self._tokens += pl_module.step_tokens
        seconds = time.monotonic() - self._since
        if seconds < _REPORT_EVERY and step != steps:
            return
        for learner in pl_module.active:
            self.on_step(learner.name, step, steps, learner.step_loss, self._tokens / max(seconds, 1e-9))
        self._since, self._tokens = time.monotonic(), 0


class LeaveEarly(pl.Callback):
    """Ends a training at a step with a checkpoint of it: when asked to, or at step ``until``. The last callback.

    stopped: the step at which it was asked to. paused: the step ``until`` and the adapters' validation losses there.
    """

    def __init__(self, keep: KeepCheckpoints, recorder: CurveRecorder, until: int | None) -> None:
        self.keep, self.recorder, self.until = keep, recorder, until
        self.stopped: int | None = None
        self.paused: tuple[int, dict[str, float]] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.until:  # an earlier call has come this far
            self._pause(trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AdapterTraining)
        step = trainer.global_step
        if step == pl_module.num_steps:
            return
        if step == self.until:
            self.keep.save(trainer)
            self._pause(step)
        if pl_module.stop_asked:
            self.keep.save(trainer)
            self.stopped = step
            raise Leave

    def _pause(self, step: int) -> None:
        self.paused = (step, self.recorder.validated(step))
        raise Leave
