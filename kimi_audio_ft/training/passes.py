"""Micro-batches as a pack passes them through the model: the same rows for all members, or rows of each its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from kimi_audio_ft.lora.pack import Share
from kimi_audio_ft.training.adapters import Learner

Batch = dict[str, Any]
Step = list[Batch] | Mapping[str, list[Batch]]
"""Micro-batches of an optimizer step: the same for all members, or each one's own by its name."""


@dataclass(frozen=True)
class Targets:
    """What one member's logits are compared with: labels ``[N]`` and the row, of its own ``num_rows``, of each."""

    labels_N: Tensor
    rows_N: Tensor
    num_rows: int

    @classmethod
    def of(cls, batch: Batch) -> Targets:
        """Of one micro-batch."""
        mask_BS = batch["text_loss_mask"]
        return cls(batch["text_labels"][mask_BS], mask_BS.nonzero()[:, 0], mask_BS.shape[0])


def turns(step: Step, learners: Sequence[Learner]) -> list[Batch]:
    """The passes of an optimizer step for these members.

    Each has the model's ``inputs`` and the ``text_loss_mask`` of its rows, which stand for ``copies`` of themselves;
    and by member ``weight`` (also one number), ``targets``, ``shares``, ``places`` (learner, number of its micro-batch,
    its own padded length) and ``owners`` (its index among the learners).
    """
    if not isinstance(step, Mapping):
        return [_same(batch, learners) for batch in step]
    longest = max(len(step[learner.name]) for learner in learners)
    passes = []
    for turn in range(longest):
        # A member's data may cut an epoch's last step into fewer micro-batches than another's.
        present = [index for index, learner in enumerate(learners) if turn < len(step[learner.name])]
        own = [step[learners[index].name][turn] for index in present]
        passes.append(_joined(own, [learners[index] for index in present]) | {"owners": present})
    return passes


def _same(batch: Batch, learners: Sequence[Learner]) -> Batch:
    targets, length = Targets.of(batch), batch["text_loss_mask"].shape[1]
    share = _share(learners[0], batch, targets)
    return {
        "inputs": batch["inputs"],
        "text_loss_mask": batch["text_loss_mask"],
        "copies": len(learners),
        "weight": batch["weight"],
        "targets": [targets] * len(learners),
        "shares": [replace(share, name=learner.name) for learner in learners],
        "places": [(learner, batch["number"], length) for learner in learners],
        "owners": list(range(len(learners))),
    }


def _joined(batches: Sequence[Batch], learners: Sequence[Learner]) -> Batch:
    """Rows of all, one member's after another's, padded behind to the longest."""
    targets = [Targets.of(batch) for batch in batches]
    lengths = [batch["text_loss_mask"].shape[1] for batch in batches]
    first: Tensor = batches[0]["text_loss_mask"]

    def stacked(values: Sequence[Tensor]) -> Tensor:
        # Padding is any id under an attention mask of 0; its embedding reaches no loss.
        return torch.cat([nn.functional.pad(value, (0, max(lengths) - value.shape[1])) for value in values])

    names = ("input_ids", "text_input_ids", "is_continuous_mask", "attention_mask")
    inputs: Batch = {name: stacked([batch["inputs"][name] for batch in batches]) for name in names}
    for name in ("audio_features", "waveforms"):
        lists = [batch["inputs"].get(name) for batch in batches]
        if all(values is not None for values in lists):
            inputs[name] = [value for values in lists for value in values]
    return {
        "inputs": inputs,
        "text_loss_mask": stacked([batch["text_loss_mask"] for batch in batches]),
        "copies": 1,
        "weight": torch.tensor([batch["weight"] for batch in batches], device=first.device),
        "targets": targets,
        "shares": list(map(_share, learners, batches, targets)),
        "places": list(zip(learners, [batch["number"] for batch in batches], lengths, strict=True)),
    }


def _share(learner: Learner, batch: Batch, targets: Targets) -> Share:
    codes = int(batch["inputs"]["is_continuous_mask"].sum())
    return Share(learner.name, targets.num_rows, codes, targets.labels_N.numel())


def repeated(model: PeftModel, inputs: Batch, mask_BS: Tensor, copies: int) -> tuple[Batch, Tensor]:
    """The model's inputs with every row, and all its features, written out ``copies`` times.

    For adapters in front of the layers. The frozen Whisper encoder still runs once.
    """
    rest = {name: value for name, value in inputs.items() if not isinstance(value, Tensor)}
    tensors = {name: value.repeat(copies, 1) for name, value in inputs.items() if isinstance(value, Tensor)}
    waveforms = rest.pop("waveforms", None)
    if waveforms is not None:
        tuned: Any = model.base_model.model
        rest["audio_features"] = tuned.whisper_model(waveforms)
    if rest["audio_features"] is not None:
        rest["audio_features"] = list(rest["audio_features"]) * copies
    return {**rest, **tensors}, mask_BS.repeat(copies, 1)
