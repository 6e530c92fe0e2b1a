"""Teacher-forced loss of each conversation's answer, and of its tokens."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from kimi_audio_ft.data.batching import validation_share
from kimi_audio_ft.data.datamodule import Collate
from kimi_audio_ft.data.dataset import Samples
from kimi_audio_ft.decoding.transcribe import to_device
from kimi_audio_ft.decoding.transcripts import EvaluationSet
from kimi_audio_ft.model.text_tokenizer import TextTokenizer
from kimi_audio_ft.training.module import row_means, token_losses
from kimi_audio_ft.training.passes import Targets

# Conversations in a batch, when data.max_batch_tokens allows: without gradients they take little memory.
_BATCH_SIZE = 8


@dataclass(frozen=True)
class Loss:
    """Loss of a reference, in nats.

    mean: per answer token. tokens: for each token of the text, and for its end, the index of the character that it
    begins in (of the text in NFC) and its loss; empty for an answer of several texts.
    """

    mean: float
    tokens: list[tuple[int, float]]

    def fields(self) -> dict[str, Any]:
        """As in utterances.jsonl."""
        return {"loss": self.mean, "token_losses": self.tokens}


def evaluation_losses(
    evaluation: EvaluationSet, adapter: tuple[str, Path] | None, progress: bool = False
) -> dict[str, Loss]:
    """``utterance_losses`` of an evaluation set under a saved adapter (signature and folder), or the base alone."""
    base, answered = evaluation.base, evaluation.dataset(progress)
    visible = progress and sys.stdout.isatty()
    with base.saved_adapter(adapter[1] if adapter else None) as model:
        return utterance_losses(model, answered, base.tokenizer, evaluation.settings.max_batch_tokens, visible)


@torch.no_grad()
def utterance_losses(
    model: torch.nn.Module, dataset: Samples, tokenizer: TextTokenizer, max_tokens: int, progress: bool = False
) -> dict[str, Loss]:
    """Cross-entropy of each conversation's answer, its end included, by id, in the dataset's order.

    The means are those that training averages (``row_means``), independent of the batches.

    Args:
        dataset: conversations with their answers.
        max_tokens: limit on the padded positions of a batch; a longer conversation is a batch of its own.
    """
    device = next(model.parameters()).device
    collate = Collate(tokenizer.pad_id, dataset.audio.mode == "online")
    losses: dict[str, Loss] = {}
    batches = validation_share(dataset.lengths()[:, 0], _BATCH_SIZE, max_tokens)
    for draws in track(batches, "losses", disable=not progress, transient=True):
        samples = [dataset[draw] for draw in draws]
        (batch,) = collate(samples)
        inputs, targets = to_device(batch["inputs"], device), Targets.of(batch)
        places_N = targets.places(batch["text_labels"].shape[1]).to(device)
        logits_NV = model(**inputs, audio_branch=False, text_positions=places_N, right_padded=True).text_logits
        labels_N, rows_N = targets.labels_N.to(device), targets.rows_N.to(device)
        losses_N = token_losses(logits_NV, labels_N)
        means = row_means(losses_N, rows_N, targets.num_rows).tolist()
        for row, (sample, mean) in enumerate(zip(samples, means, strict=True)):
            own = rows_N == row
            tokens = _token_losses(sample.reference, labels_N[own].tolist(), losses_N[own].tolist(), tokenizer)
            losses[sample.id] = Loss(mean, tokens)
    return {conversation.id: losses[conversation.id] for conversation in dataset.conversations}


def _token_losses(
    reference: str, ids: Sequence[int], losses: Sequence[float], tokenizer: TextTokenizer
) -> list[tuple[int, float]]:
    """Those of the answer's last text, as in ``Loss``; ``ids`` may hold earlier answers, each with its end."""
    text = tokenizer.encode(reference)
    if [*ids[-len(text) - 1 : -1]] != text:
        return []
    starts = [*tokenizer.starts(text), len(unicodedata.normalize("NFC", reference))]
    return [(start, round(loss, 4)) for start, loss in zip(starts, losses[-len(starts) :], strict=True)]
