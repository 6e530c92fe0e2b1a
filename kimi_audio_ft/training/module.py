"""The Lightning module: one adapter, or several, over a frozen base, learning text answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional

from kimi_audio_ft.lora.pack import Pack, seed_dropout
from kimi_audio_ft.training.adapters import Learner, adapter_parameters
from kimi_audio_ft.training.passes import Step, repeated, turns
from kimi_audio_ft.training.strategies import AdapterHolder, AdapterStrategy

# --- Cross-entropy of the two streams.

# The published code adds this to the number of supervised positions.
_EPSILON = 1e-4


def stream_loss(logits_BSV: Tensor, labels_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Published loss of one stream: ``sum(mask * cross_entropy) / (sum(mask) + 1e-4)``; 0 with an empty mask.

    Labels and mask are shifted already (position p holds what p has to predict).
    """
    losses_N = functional.cross_entropy(logits_BSV[mask_BS].float(), labels_BS[mask_BS], reduction="sum")
    return losses_N / (mask_BS.sum() + _EPSILON)


def two_stream_loss(
    text_logits: Tensor,
    audio_logits: Tensor,
    text_labels: Tensor,
    audio_labels: Tensor,
    text_loss_mask: Tensor,
    audio_loss_mask: Tensor,
) -> Tensor:
    """Published training loss: text stream plus audio stream, unweighted."""
    text = stream_loss(text_logits, text_labels, text_loss_mask)
    return text + stream_loss(audio_logits, audio_labels, audio_loss_mask)


def answer_loss(logits_NV: Tensor, labels_N: Tensor, rows_N: Tensor, num_rows: int, average: str) -> Tensor:
    """Summed loss of the supervised positions of a micro-batch, before division by the global batch.

    Args:
        logits_NV: logits at the N supervised positions only.
        labels_N: their labels.
        rows_N: the sample each position belongs to, 0 to ``num_rows - 1``.
        average: "sample" sums each sample's mean over its positions (the published averaging, which weighs a short
            answer's tokens more); "token" sums over positions.

    Returns:
        A scalar; dividing it by the number of samples or of positions of the *whole* optimizer step gives a loss that
        does not depend on how the step was cut into micro-batches or ranks.
    """
    if average == "token":
        return functional.cross_entropy(logits_NV.float(), labels_N, reduction="none").sum()
    return row_losses(logits_NV, labels_N, rows_N, num_rows).sum()


def row_losses(logits_NV: Tensor, labels_N: Tensor, rows_N: Tensor, num_rows: int) -> Tensor:
    """Published mean loss of every sample of a micro-batch, ``[num_rows]``, in nats per supervised position.

    Arguments as for ``answer_loss``; a sample without a supervised position has 0.
    """
    losses_N = functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    sums = torch.zeros(num_rows, device=losses_N.device).index_add_(0, rows_N, losses_N)
    counts = torch.bincount(rows_N, minlength=num_rows)
    return sums / (counts + _EPSILON)


class AdapterTraining(AdapterHolder):
    """Trains the adapters of a PEFT model; one Lightning batch is one optimizer step, of some micro-batches.

    Text answers never compute the audio branch, and logits are computed at supervised positions only. The published
    code runs both heads, each over all 168,448 ids, at every position.

    Optimization is manual: Lightning's own accumulation divides by a fixed number of micro-batches, while the weights
    of ours (``data.batching``) make every step's loss a mean over that very step, on any number of ranks.

    Nothing couples two adapters: losses are summed, so that each one's gradient is its own loss's; rates, AdamW's
    values and clipping are by group of parameters; and one that has failed leaves the batch.
    """

    def __init__(self, model: PeftModel, learners: Sequence[Learner], num_steps: int, pack: Pack | None = None) -> None:
        super().__init__()
        assert len(learners) == 1 or pack is not None, "PEFT alone trains one adapter at a time"
        self.model, self.learners, self.num_steps, self.pack = model, list(learners), num_steps, pack
        self.average = learners[0].optim.loss_average
        assert all(learner.optim.loss_average == self.average for learner in learners), "they weigh batches differently"
        self.automatic_optimization = False
        self.should_stop: Callable[[], bool] = lambda: False
        self.stop_asked = False  # by any rank, at the end of the last step
        self.step_tokens = 0  # positions of the last step, over all ranks and adapters, without padding
        self._factors = [learner.factor(num_steps) for learner in learners]
        for learner in learners:
            learner.place = seed_dropout(model, learner.name)

    @property
    def active(self) -> list[Learner]:
        """Those that have not failed."""
        return [learner for learner in self.learners if learner.failure is None]

    @property
    def strategy(self) -> AdapterStrategy:
        """How the ranks of this training share the work."""
        strategy = self.trainer.strategy
        assert isinstance(strategy, AdapterStrategy)
        return strategy

    def configure_model(self) -> None:
        """Let the strategy spread the frozen base over the ranks, once."""
        self.strategy.shard(self.model)

    def training_step(self, step: Step, batch_idx: int) -> None:
        """One optimizer step: the sum of its micro-batches' weighted losses is its mean loss over all ranks."""
        optimizer: Any = self.optimizers()
        for learner, factor, group in zip(self.learners, self._factors, optimizer.param_groups, strict=True):
            learner.rate = group["lr"] = learner.optim.lr * factor(self.trainer.global_step)
        optimizer.zero_grad()
        wrapped: Any = self.strategy.model  # this module, or what holds it
        active = self.active
        sums = torch.zeros(len(active) + 2, device=self.device)  # losses, wishes to stop, positions
        batches = turns(step, active)
        for place, batch in enumerate(batches, start=1):
            # Dropout depends on the place in training alone, so a resumed run draws what the interrupted one would
            # have, and any number of ranks what one would.
            for learner, number, length in batch["places"]:
                learner.place.at(learner.seed, self.current_epoch, number, length)
            with self.strategy.accumulating(last=place == len(batches)):
                losses = wrapped(batch, self.average) * batch["weight"]
                self.manual_backward(losses.sum() * self.strategy.ranks)  # strategies average gradients over the ranks
            sums[batch["owners"]] += losses.detach()
            sums[-1] += batch["inputs"]["attention_mask"].sum() * batch["copies"]
        for learner, group in zip(self.learners, optimizer.param_groups, strict=True):
            if learner.optim.max_grad_norm and learner.failure is None:
                self.strategy.clip(group["params"], learner.optim.max_grad_norm)
        optimizer.step()
        sums[-2] = float(self.should_stop())
        *step_losses, wishes, tokens = self.strategy.reduce(sums, reduce_op="sum").tolist()
        for learner, loss in zip(active, step_losses, strict=True):
            learner.step_loss = loss
        self.stop_asked, self.step_tokens = wishes > 0, int(tokens)
        self.log("train_loss", sum(step_losses) / len(active), prog_bar=True, logger=False)

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[list[dict[str, Any]]]) -> dict[str, float]:
        """Mean loss over the answer tokens of the evaluation set, however it is cut into batches and ranks."""
        active = self.active
        sums = torch.zeros(len(active) + 1, dtype=torch.float64, device=self.device)  # losses, answer tokens
        self.eval()
        for step in map(self.strategy.batch_to_device, batches):
            [batch] = turns(step, active)
            losses = self(batch, "token").double()
            tokens = step[0]["text_loss_mask"].sum().double()
            sums += step[0]["weight"] * torch.cat([losses, tokens.reshape(1)])
        self.train()
        *losses_, tokens = self.strategy.reduce(sums, reduce_op="sum").tolist()
        return {learner.name: loss / max(1.0, tokens) for learner, loss in zip(active, losses_, strict=True)}

    def forward(self, batch: dict[str, Any], average: str) -> Tensor:
        """Summed loss of one micro-batch for each adapter (``answer_loss``); wrappers of this module are called."""
        inputs, mask_BS, copies = batch["inputs"], batch["text_loss_mask"], batch["copies"]
        if self.pack is not None:
            self.pack.shares = batch["shares"]
            if self.pack.adapts_embedding and copies > 1:
                inputs, mask_BS = repeated(self.model, inputs, mask_BS, copies)
                copies = 1
        out = self.model(**inputs, audio_branch=False, text_positions=mask_BS, copies=copies)
        parts = out.text_logits.split([target.labels_N.numel() for target in batch["targets"]])
        return torch.stack(
            [
                answer_loss(logits_NV, target.labels_N, target.rows_N, target.num_rows, average)
                for logits_NV, target in zip(parts, batch["targets"], strict=True)
            ]
        )

    def on_train_end(self) -> None:
        """Gather the adapters while all ranks are still there."""
        self.trained = adapter_parameters(self.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with a group for every adapter; ``training_step`` sets its rate, a function of the step alone."""
        trained = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        groups: list[dict[str, Any]] = [
            {
                "params": [value for name, value in trained if learner.owns(name)],
                "lr": learner.optim.lr,
                "betas": (learner.optim.beta1, learner.optim.beta2),
                "eps": learner.optim.eps,
                "weight_decay": learner.optim.weight_decay,
            }
            for learner in self.learners
        ]
        assert sum(len(group["params"]) for group in groups) == len(trained), "every adapter has its learner"
        return torch.optim.AdamW(groups)
