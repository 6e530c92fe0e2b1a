"""Conversations of different length as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kimi_audio_ft.data.layout import Layout


@dataclass
class Sample:
    """One conversation, ready for a batch.

    features: ``[T_i, D]`` of each audio in order, or None when features are left out or computed from ``waveforms``.
    weight: what its loss counts for in the mean of its optimizer step, the same for all samples of a micro-batch.
    number: place of its micro-batch among those of the epoch.
    """

    id: str
    layout: Layout
    features: list[Tensor] | None = None
    waveforms: list[Tensor] = field(default_factory=list)
    reference: str = ""
    weight: float = 1.0
    number: int = 0


def make_batch(samples: Sequence[Sample], pad_id: int, left: bool = False, online: bool = False) -> dict[str, Any]:
    """Arguments of the model's ``forward`` (under "inputs") with the shifted text labels and their mask.

    Args:
        left: pad in front, as generation needs it; else behind.
        online: pass the waveforms on, for a model with an attached Whisper encoder.
    """
    length = max(len(sample.layout) for sample in samples)

    def padded(values: Sequence[int | bool], fill: int | bool) -> list[int | bool]:
        padding = [fill] * (length - len(values))
        return [*padding, *values] if left else [*values, *padding]

    def stack(name: str, fill: int | bool) -> Tensor:
        return torch.tensor([padded(getattr(sample.layout, name), fill) for sample in samples])

    text_ids, text_loss_mask = stack("text_ids", pad_id), stack("text_loss_mask", False)
    inputs: dict[str, Any] = {
        "input_ids": stack("audio_ids", pad_id),
        "text_input_ids": text_ids,
        "is_continuous_mask": stack("is_continuous_mask", False),
        "attention_mask": torch.tensor([padded([1] * len(sample.layout), 0) for sample in samples]),
        "audio_features": None,
    }
    if online:
        inputs["waveforms"] = [waveform for sample in samples for waveform in sample.waveforms]
    elif all(sample.features is not None for sample in samples):
        inputs["audio_features"] = [rows for sample in samples for rows in sample.features or []]
    return {
        "ids": [sample.id for sample in samples],
        "weight": samples[0].weight,
        "number": samples[0].number,
        "inputs": inputs,
        # Position p predicts what stands at p + 1, as published; the last position predicts nothing.
        "text_labels": torch.nn.functional.pad(text_ids[:, 1:], (0, 1), value=pad_id),
        "text_loss_mask": torch.nn.functional.pad(text_loss_mask[:, 1:], (0, 1), value=False),
    }
