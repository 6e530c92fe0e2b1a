"""Teacher-forced loss of each conversation's answer."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from rich.progress import track

from kimi_audio_ft.data.batching import validation_share
from kimi_audio_ft.data.datamodule import Collate
from kimi_audio_ft.data.dataset import Samples
from kimi_audio_ft.decoding.transcribe import to_device
from kimi_audio_ft.decoding.transcripts import EvaluationSet
from kimi_audio_ft.training.module import row_losses
from kimi_audio_ft.training.passes import Targets

# Conversations in a batch, when data.max_batch_tokens allows: without gradients they take little memory.
_BATCH_SIZE = 8


def evaluation_losses(
    evaluation: EvaluationSet, adapter: tuple[str, Path] | None, progress: bool = False
) -> dict[str, float]:
    """``utterance_losses`` of an evaluation set under a saved adapter (signature and folder), or the base alone."""
    base, answered = evaluation.base, evaluation.dataset(progress)
    visible = progress and sys.stdout.isatty()
    with base.saved_adapter(adapter[1] if adapter else None) as model:
        return utterance_losses(model, answered, base.tokenizer.pad_id, evaluation.settings.max_batch_tokens, visible)


@torch.no_grad()
def utterance_losses(
    model: torch.nn.Module, dataset: Samples, pad_id: int, max_tokens: int, progress: bool = False
) -> dict[str, float]:
    """Mean cross-entropy of each conversation's answer tokens, its end included, in nats by id, in the dataset's order.

    The losses that training averages (``row_losses``), independent of the batches.

    Args:
        dataset: conversations with their answers.
        max_tokens: limit on the padded positions of a batch; a longer conversation is a batch of its own.
    """
    device = next(model.parameters()).device
    collate = Collate(pad_id, dataset.audio.mode == "online")
    losses: dict[str, float] = {}
    batches = validation_share(dataset.lengths()[:, 0], _BATCH_SIZE, max_tokens)
    for draws in track(batches, "losses", disable=not progress, transient=True):
        (batch,) = collate([dataset[draw] for draw in draws])
        inputs, mask_BS = to_device(batch["inputs"], device), batch["text_loss_mask"].to(device)
        logits_NV = model(**inputs, audio_branch=False, text_positions=mask_BS).text_logits
        targets = Targets.of(batch)
        found = row_losses(logits_NV, targets.labels_N.to(device), targets.rows_N.to(device), targets.num_rows)
        losses.update(zip(batch["ids"], found.tolist(), strict=True))
    return {conversation.id: losses[conversation.id] for conversation in dataset.conversations}
