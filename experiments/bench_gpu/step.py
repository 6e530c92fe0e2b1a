"""The training step that is measured: an adapter over a frozen base, as ``AdapterTraining`` runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from kimi_audio_ft.config.train import LoraConfig, OptimConfig
from kimi_audio_ft.lora.adapter import ONE, add_adapter
from kimi_audio_ft.lora.pack import seed_dropout
from kimi_audio_ft.lora.update import own_updates
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.training.module import answer_loss, averaged


@dataclass(frozen=True)
class Ways:
    """How a step is computed: the product's own ways on a GPU, each of which can be left."""

    fused: bool = True
    chunked: bool = True
    masked: bool = False
    checkpointing: bool = False


@contextmanager
def adapter_on(
    model: KimiAudioForCausalLM, lora: LoraConfig, checkpointing: bool = False, seed: int = 1
) -> Iterator[PeftModel]:
    """The base with a fresh adapter in training mode, taken off again at the end."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    adapted = add_adapter(model, lora, seed)
    adapted.train()  # layers in eval mode would quietly not recompute their activations
    try:
        yield adapted
    finally:
        adapted.unload()
        if checkpointing:
            model.gradient_checkpointing_disable()
        model.eval().requires_grad_(False)


def batch_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Mean over the samples of their mean loss per answer token, without the audio branch."""
    mask_BS = batch["text_loss_mask"]
    out = model(**batch["inputs"], audio_branch=False, text_positions=mask_BS)
    labels_N, rows_N = batch["text_labels"][mask_BS], mask_BS.nonzero()[:, 0]
    return answer_loss(out.text_logits, labels_N, rows_N, mask_BS.shape[0], "sample") / mask_BS.shape[0]


class OwnStep:
    """Loss of a batch by the product's own ways, with its masks of dropout, inside ``on``."""

    def __init__(self, model: PeftModel, ways: Ways) -> None:
        self.model, self.ways, self.seed = model, ways, seed_dropout(model, ONE)

    @contextmanager
    def on(self) -> Iterator[OwnStep]:
        tuned: Any = self.model.base_model.model
        tuned.set_fused(self.ways.fused)
        try:
            with own_updates(self.model, ONE) if self.ways.fused else nullcontext():
                yield self
        finally:
            tuned.set_fused(False)

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        mask_BS, answers = batch["text_loss_mask"], batch["answers"]
        num_rows, length = mask_BS.shape
        samples_R = torch.arange(num_rows, device=mask_BS.device)
        self.seed.by_place(1, 0, samples_R, length, (answers["rows"], answers["columns"]))
        labels_N, rows_N = answers["labels"], answers["rows"]
        places_N = rows_N * length + answers["columns"]
        out = self.model(
            **batch["inputs"],
            audio_branch=False,
            text_positions=places_N,
            right_padded=not self.ways.masked,
            labels=labels_N if self.ways.chunked else None,
        )
        if self.ways.chunked:
            return averaged(out.text_losses, rows_N, num_rows, "sample") / num_rows
        return answer_loss(out.text_logits, labels_N, rows_N, num_rows, "sample") / num_rows


class AdapterStep:
    """Forward, backward, clipping and AdamW over the adapter; loss: of a batch, in place of ``batch_loss``."""

    def __init__(
        self, model: PeftModel, optim: OptimConfig, loss: Callable[[dict[str, Any]], Tensor] | None = None
    ) -> None:
        self.model, self.max_grad_norm = model, optim.max_grad_norm
        self.loss = loss or partial(batch_loss, model)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )

    def __call__(self, *passes: dict[str, Any]) -> Tensor:
        """One optimizer step; the mean loss of its passes' conversations before it, still on the device."""
        rows = sum(len(batch["ids"]) for batch in passes)
        losses = []
        for batch in passes:
            loss = self.loss(batch) * (len(batch["ids"]) / rows)
            loss.backward()
            losses.append(loss.detach())
        if self.max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack(losses).sum()
