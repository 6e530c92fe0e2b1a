"""The Lightning module: one adapter over a frozen base, learning text answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from kimi_audio_ft.lora.adapter import stable_seed
from kimi_audio_ft.schema import OptimConfig
from kimi_audio_ft.training.loss import answer_loss
from kimi_audio_ft.training.schedule import rate_factor
from kimi_audio_ft.training.states import adapter_parameters
from kimi_audio_ft.training.strategies import AdapterHolder, AdapterStrategy


class AdapterTraining(AdapterHolder):
    """Trains the adapter of a PEFT model; one Lightning batch is one optimizer step, a list of micro-batches.

    Text answers never compute the audio branch, and logits are computed at supervised positions only. The published
    code runs both heads, each over all 168,448 ids, at every position.

    Optimization is manual: Lightning's own accumulation divides by a fixed number of micro-batches, while the weights
    of ours (``data.batching``) make every step's loss a mean over that very step, on any number of ranks.
    """

    def __init__(self, model: PeftModel, optim: OptimConfig, num_steps: int, seed: int) -> None:
        super().__init__()
        self.model = model
        self.optim, self.num_steps, self.seed = optim, num_steps, seed
        self.automatic_optimization = False
        self.rate = 0.0  # the learning rate of the last step
        self.step_loss = 0.0  # its loss, over all ranks
        self._factor = rate_factor(optim.schedule, num_steps, optim.warmup_ratio)

    @property
    def strategy(self) -> AdapterStrategy:
        """How the ranks of this training share the work."""
        strategy = self.trainer.strategy
        assert isinstance(strategy, AdapterStrategy)
        return strategy

    def configure_model(self) -> None:
        """Let the strategy spread the frozen base over the ranks, once."""
        self.strategy.shard(self.model)

    def training_step(self, step: list[dict[str, Any]], batch_idx: int) -> None:
        """One optimizer step: the sum of its micro-batches' weighted losses is its mean loss over all ranks."""
        optimizer: Any = self.optimizers()
        self.rate = self.optim.lr * self._factor(self.trainer.global_step)
        for group in optimizer.param_groups:
            group["lr"] = self.rate
        optimizer.zero_grad()
        wrapped: Any = self.strategy.model  # this module, or what holds it
        total = torch.zeros((), device=self.device)
        for place, batch in enumerate(step, start=1):
            # Dropout depends on the place in training alone, so a resumed run draws what the interrupted one would
            # have, and any number of ranks what one would.
            torch.manual_seed(stable_seed("dropout", self.seed, self.current_epoch, batch["number"]))
            with self.strategy.accumulating(last=place == len(step)):
                loss = wrapped(batch, self.optim.loss_average) * batch["weight"]
                self.manual_backward(loss * self.strategy.ranks)  # strategies average gradients over the ranks
            total += loss.detach()
        if self.optim.max_grad_norm:
            self.clip_gradients(optimizer, self.optim.max_grad_norm, gradient_clip_algorithm="norm")
        optimizer.step()
        self.step_loss = float(self.strategy.reduce(total, reduce_op="sum"))
        self.log("train_loss", self.step_loss, prog_bar=True, logger=False)

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[list[dict[str, Any]]]) -> float:
        """Mean loss over the answer tokens of the evaluation set, however it is cut into batches and ranks."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss, answer tokens
        self.eval()
        for [batch] in map(self.strategy.batch_to_device, batches):
            loss = self(batch, "token").double()
            sums += batch["weight"] * torch.stack([loss, batch["text_loss_mask"].sum().double()])
        self.train()
        loss, tokens = self.strategy.reduce(sums, reduce_op="sum").tolist()
        return loss / max(1.0, tokens)

    def forward(self, batch: dict[str, Any], average: str) -> Tensor:
        """Summed loss of one micro-batch (``answer_loss``); wrappers of this module are called for it."""
        mask_BS = batch["text_loss_mask"]
        out = self.model(**batch["inputs"], audio_branch=False, text_positions=mask_BS)
        labels_N, rows_N = batch["text_labels"][mask_BS], mask_BS.nonzero()[:, 0]
        return answer_loss(out.text_logits, labels_N, rows_N, mask_BS.shape[0], average)

    def on_train_end(self) -> None:
        """Gather the adapter while all ranks are still there."""
        self.trained = adapter_parameters(self.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the adapter; ``training_step`` sets its rate, a function of the step alone."""
        optim = self.optim
        return torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
