"""Lightning module and loss: trains adapters over a frozen base on text answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional

from kimi_audio_ft.lora.pack import Pack, seed_dropout
from kimi_audio_ft.training.adapters import AdapterState, adapter_parameters, rate_factor, whole_on_cpu
from kimi_audio_ft.training.ending import Leave, TrainingFailed, require_finite
from kimi_audio_ft.training.passes import Step, Targets, repeated, turns
from kimi_audio_ft.training.strategies import AdapterStrategy

log = logging.getLogger(__name__)

OnFailure = Callable[[str, TrainingFailed], None]

# The published code adds this to the number of supervised positions.
_EPSILON = 1e-4


def answer_loss(logits_NV: Tensor, labels_N: Tensor, rows_N: Tensor, num_rows: int, average: str) -> Tensor:
    """Summed loss of the supervised positions of a micro-batch, before division by the global batch.

    Args:
        logits_NV: logits at the N supervised positions only.
        labels_N: their labels.
        rows_N: the sample of each position, 0 to ``num_rows - 1``.
        average: "sample" sums each sample's mean over its positions (the published averaging, which gives tokens of
            short answers more weight); "token" sums over positions.

    Returns:
        A scalar. Divided by the samples or positions of the *whole* optimizer step it gives a loss that is independent
        of micro-batches and ranks.
    """
    return averaged(token_losses(logits_NV, labels_N), rows_N, num_rows, average)


def averaged(losses_N: Tensor, rows_N: Tensor, num_rows: int, average: str) -> Tensor:
    """``answer_loss`` from the losses of the positions."""
    return losses_N.sum() if average == "token" else row_means(losses_N, rows_N, num_rows).sum()


def token_losses(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Cross-entropy at every supervised position, ``[N]``, in nats."""
    return functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")


def row_means(losses_N: Tensor, rows_N: Tensor, num_rows: int) -> Tensor:
    """Published mean loss of every sample of a micro-batch, ``[num_rows]``, from those of its supervised positions.

    0 for a sample without any.
    """
    sums = torch.zeros(num_rows, device=losses_N.device).index_add_(0, rows_N, losses_N)
    counts = torch.zeros_like(sums).index_add_(0, rows_N, torch.ones_like(losses_N))  # bincount waits for a GPU
    return sums / (counts + _EPSILON)


def _of_logits(logits_NV: Tensor, target: Targets, average: str) -> Tensor:
    return answer_loss(logits_NV, target.labels_N, target.rows_N, target.num_rows, average)


def _of_losses(losses_N: Tensor, target: Targets, average: str) -> Tensor:
    return averaged(losses_N, target.rows_N, target.num_rows, average)


def _weighted(losses_K: Tensor, weights: Sequence[float]) -> Tensor:
    """Every adapter's loss times its weight; numbers, since a tensor of them would be copied to a GPU."""
    if len(set(weights)) == 1:
        return losses_K * weights[0]
    return torch.stack([loss * weight for loss, weight in zip(losses_K, weights, strict=True)])


class AdapterTraining(pl.LightningModule):
    """Trains the adapters of a PEFT model; one Lightning batch is one optimizer step of several micro-batches.

    Text answers never compute the audio branch, and logits are computed at supervised positions only. The published
    code runs both heads, each over all 168,448 ids, at every position.

    Optimization is manual: Lightning's accumulation divides by a fixed number of micro-batches, while our weights
    (``data.batching``) make every step's loss a mean over exactly that step, on any number of ranks.

    Adapters are independent: losses are summed, so each gets the gradient of its own loss; learning rates, AdamW's
    state and clipping are per parameter group; and a failed adapter leaves the batch.
    """

    def __init__(
        self,
        model: PeftModel,
        states: Sequence[AdapterState],
        num_steps: int,
        pack: Pack | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_failure: OnFailure | None = None,
    ) -> None:
        super().__init__()
        assert len(states) == 1 or pack is not None, "PEFT alone trains one adapter at a time"
        self.model, self.states, self.num_steps, self.pack = model, list(states), num_steps, pack
        self.average = states[0].optim.loss_average
        assert all(state.optim.loss_average == self.average for state in states), "a pack shares its loss average"
        self.automatic_optimization = False
        self.should_stop = should_stop or (lambda: False)
        self.on_failure = on_failure or (lambda name, failure: None)
        self.stop_asked = False  # by any rank, at the end of the last step
        self.step_tokens = 0  # positions of the last step, over all ranks and adapters, without padding
        self._factors = [rate_factor(state.optim.schedule, num_steps, state.optim.warmup_ratio) for state in states]
        for state in states:
            state.dropout = seed_dropout(model, state.name)

    @property
    def active(self) -> list[AdapterState]:
        return [state for state in self.states if state.failure is None]

    @property
    def flat(self) -> bool:
        """Whether only positions are computed that are no padding, and a common prompt once (``model.flat``)."""
        tuned: Any = self.model.base_model.model
        return bool(tuned.takes_flat)

    @property
    def strategy(self) -> AdapterStrategy:
        strategy = self.trainer.strategy
        assert isinstance(strategy, AdapterStrategy)
        return strategy

    def configure_model(self) -> None:
        """Let the strategy shard the frozen base."""
        self.strategy.shard(self.model)

    def training_step(self, step: Step, batch_idx: int) -> None:
        """One optimizer step: the sum of its micro-batches' weighted losses is its mean loss over all ranks."""
        optimizer: Any = self.optimizers()
        for state, factor, group in zip(self.states, self._factors, optimizer.param_groups, strict=True):
            state.rate = group["lr"] = state.optim.lr * factor(self.trainer.global_step)
        optimizer.zero_grad()
        wrapped: Any = self.strategy.model  # this module, or its wrapper
        active = self.active
        sums = torch.zeros(len(active) + 2, device=self.device)  # losses, requests to stop, positions
        batches = turns(step, active, self.flat)
        for count, batch in enumerate(batches, start=1):
            self.seed_masks(batch, self.current_epoch)
            with self.strategy.accumulating(last=count == len(batches)):
                losses = wrapped(batch, self.average)
                losses = _weighted(losses, batch["weights"])
                self.manual_backward(losses.sum() * self.strategy.ranks)  # strategies average gradients over the ranks
            owners = batch["owners"]  # as a slice where they are all, for a list of indices would be copied to a GPU
            sums[slice(len(owners)) if owners == list(range(len(owners))) else owners] += losses.detach()
            sums[-1] += batch["inputs"]["attention_mask"].sum() * batch["copies"]
        norms = [
            self.strategy.clip(group["params"], state.optim.max_grad_norm)
            for state, group in zip(self.states, optimizer.param_groups, strict=True)
            if state.failure is None
        ]
        optimizer.step()
        sums[-2] = float(self.should_stop())
        sums = self.strategy.reduce(sums, reduce_op="sum")
        figures = torch.cat([torch.stack(norms).to(sums), sums]).tolist()  # a GPU is waited for once a step
        step_norms, (*step_losses, requests, tokens) = figures[: len(norms)], figures[len(norms) :]
        self.stop_asked, self.step_tokens = requests > 0, int(tokens)
        if self.trainer.progress_bar_callback is not None:
            self.log("train_loss", sum(step_losses) / len(active), prog_bar=True, logger=False)
        for state, loss, norm in zip(active, step_losses, step_norms, strict=True):
            state.step_loss, state.grad_norm = loss, norm
            self._drop_if_failed(state)
        if not self.active:
            raise Leave

    def seed_masks(self, batch: dict[str, Any], epoch: int) -> None:
        """Let dropout's masks be those of a pass: by seed, epoch and micro-batch, or on a GPU by sample.

        They are the same after a resume, on any number of ranks, and on a GPU in any passes.
        """
        origins = batch["flat"].origins if batch["flat"] is not None else [None] * len(batch["targets"])
        for (state, number, length), target, flat in zip(
            batch["micro_batches"], batch["targets"], origins, strict=True
        ):
            answers = (target.rows_N, target.columns_N)
            if target.samples_R.device.type == "cpu":
                state.dropout.at(state.seed, epoch, number, (target.num_rows, length), answers, flat)
            else:
                state.dropout.by_place(state.seed, epoch, target.samples_R, length, answers, target.codes_N)

    def _drop_if_failed(self, state: AdapterState) -> None:
        try:
            on_gpu = self.device.type == "cuda"
            require_finite("training", state.step_loss, state.optim.lr, self.trainer.global_step, on_gpu)
        except TrainingFailed as failure:
            state.failure = failure
            if self.active:
                log.warning("%s leaves its pack: %s", state.name, failure)
            self.on_failure(state.name, failure)

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[list[dict[str, Any]]]) -> dict[str, float]:
        """Mean loss over the answer tokens of the evaluation set, independent of batches and ranks."""
        active = self.active
        sums = torch.zeros(len(active) + 1, dtype=torch.float64, device=self.device)  # losses, answer tokens
        self.eval()
        for step in map(self.strategy.batch_to_device, batches):
            [batch] = turns(step, active, self.flat)
            losses = self(batch, "token").double()
            tokens = losses.new_full((1,), len(step[0]["answers"]["labels"]))
            sums += step[0]["weight"] * torch.cat([losses, tokens])
        self.train()
        *losses_, tokens = self.strategy.reduce(sums, reduce_op="sum").tolist()
        return {state.name: loss / max(1.0, tokens) for state, loss in zip(active, losses_, strict=True)}

    def forward(self, batch: dict[str, Any], average: str) -> Tensor:
        """Summed loss of one micro-batch for each adapter (``answer_loss``); called through the strategy's wrapper."""
        inputs, answers_N, copies, flat = batch["inputs"], batch["answers"], batch["copies"], batch["flat"]
        if self.pack is not None:
            self.pack.shares = batch["shares"]
            if self.pack.adapts_embedding and copies > 1:
                inputs, answers_N = repeated(self.model, inputs, answers_N, copies)
                copies, flat = 1, flat and flat.apart()
        targets: list[Targets] = batch["targets"]
        tuned: Any = self.model.base_model.model
        labels_N = torch.cat([target.labels_N for target in targets]) if tuned.takes_labels else None
        out = self.model(
            **inputs,
            audio_branch=False,
            text_positions=answers_N,
            copies=copies,
            right_padded=True,
            flat=flat,
            labels=labels_N,
        )
        computed, loss = (out.text_logits, _of_logits) if labels_N is None else (out.text_losses, _of_losses)
        parts = computed.split([target.labels_N.numel() for target in targets])
        return torch.stack([loss(part, target, average) for part, target in zip(parts, targets, strict=True)])

    def on_train_end(self) -> None:
        """Gather the adapters before the ranks exit."""
        self.strategy.trained = adapter_parameters(self.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with one group per adapter; ``training_step`` sets its rate, a function of the step."""
        trained = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        groups: list[dict[str, Any]] = [
            {
                "params": [value for name, value in trained if f".{state.name}." in name],
                "lr": state.optim.lr,
                "betas": (state.optim.beta1, state.optim.beta2),
                "eps": state.optim.eps,
                "weight_decay": state.optim.weight_decay,
            }
            for state in self.states
        ]
        assert sum(len(group["params"]) for group in groups) == len(trained), "every parameter belongs to an adapter"
        fused = True if all(whole_on_cpu(value) for _, value in trained) else None  # on a GPU PyTorch chooses well
        return torch.optim.AdamW(groups, fused=fused)
