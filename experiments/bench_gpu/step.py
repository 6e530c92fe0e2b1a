"""The training step that is measured: an adapter over a frozen base, as ``AdapterTraining`` runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from kimi_audio_ft.config.train import LoraConfig, OptimConfig
from kimi_audio_ft.lora.adapter import add_adapter
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.training.module import answer_loss


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


class AdapterStep:
    """Forward, backward, clipping and AdamW over the adapter."""

    def __init__(self, model: PeftModel, optim: OptimConfig) -> None:
        self.model, self.max_grad_norm = model, optim.max_grad_norm
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """One optimizer step; the loss before it, still on the device."""
        loss = batch_loss(self.model, batch)
        loss.backward()
        if self.max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()
