"""The Lightning module: one adapter over a frozen base, learning text answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from peft import PeftModel
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from kimi_audio_ft.lora.adapter import stable_seed
from kimi_audio_ft.schema import OptimConfig
from kimi_audio_ft.training.loss import answer_loss
from kimi_audio_ft.training.schedule import rate_factor


class AdapterTraining(pl.LightningModule):
    """Trains the adapter of a PEFT model.

    Text answers never compute the audio branch, and logits are computed at supervised positions only. The published
    code runs both heads, each over all 168,448 ids, at every position.
    """

    def __init__(self, model: PeftModel, optim: OptimConfig, accumulate: int, num_steps: int, seed: int) -> None:
        super().__init__()
        self.model = model
        self.optim, self.accumulate, self.num_steps, self.seed = optim, accumulate, num_steps, seed
        self.strict_loading = False  # checkpoints hold the adapter alone

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one micro-batch, weighted so that an optimizer step's sum is its mean over the whole step."""
        # Dropout depends on the place in training alone, so a resumed run draws what the interrupted one would have.
        torch.manual_seed(stable_seed("dropout", self.seed, self.current_epoch, batch_idx))
        loss = self._summed_loss(batch, self.optim.loss_average) * batch["weight"]
        self.log("train_loss_part", loss.detach(), logger=False)
        return loss * self.accumulate  # Lightning divides by it

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[dict[str, Any]]) -> float:
        """Mean loss over the answer tokens of the evaluation set, however it is cut into batches."""
        total, tokens = 0.0, 0
        self.eval()
        for batch in map(self.trainer.strategy.batch_to_device, batches):
            total += self._summed_loss(batch, "token").item()
            tokens += int(batch["text_loss_mask"].sum())
        self.train()
        return total / max(1, tokens)

    def _summed_loss(self, batch: dict[str, Any], average: str) -> Tensor:
        mask_BS = batch["text_loss_mask"]
        out = self.model(**batch["inputs"], audio_branch=False, text_positions=mask_BS)
        labels_N, rows_N = batch["text_labels"][mask_BS], mask_BS.nonzero()[:, 0]
        return answer_loss(out.text_logits, labels_N, rows_N, mask_BS.shape[0], average)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the adapter with the configured schedule."""
        optim = self.optim
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        factor = rate_factor(optim.schedule, self.num_steps, optim.warmup_ratio)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapter only; the frozen base is read from its own checkpoint."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
