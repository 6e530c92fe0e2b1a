"""Forward passes of a pack: micro-batches with shared rows, or with each adapter's own rows in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from kimi_audio_ft.lora.pack import Share
from kimi_audio_ft.model.flat import Flat, Rows
from kimi_audio_ft.training.adapters import AdapterState

Batch = dict[str, Any]
Step = list[Batch] | Mapping[str, list[Batch]]
"""Micro-batches of an optimizer step: shared by all adapters, or each one's own by its name."""


@dataclass(frozen=True)
class Targets:
    """Labels ``[N]`` of one adapter's supervised positions, and the row (0 to ``num_rows - 1``) and column of each."""

    labels_N: Tensor
    rows_N: Tensor
    columns_N: Tensor
    num_rows: int

    @classmethod
    def of(cls, batch: Batch) -> Targets:
        mask_BS = batch["text_loss_mask"]
        rows_N, columns_N = mask_BS.nonzero(as_tuple=True)
        return cls(batch["text_labels"][rows_N, columns_N], rows_N, columns_N, mask_BS.shape[0])


def turns(step: Step, states: Sequence[AdapterState], flat: bool = False) -> list[Batch]:
    """Forward passes of an optimizer step for these adapters.

    Each has the model's ``inputs`` and ``text_loss_mask``, whose rows are computed for ``copies`` adapters; its
    positions if asked for as ``flat``; and per adapter ``weight`` (or one number for all), ``targets``, ``shares``,
    ``micro_batches`` (state, number, padded length) and ``owners`` (its index in ``states``).
    """
    if not isinstance(step, Mapping):
        return [_laid_out(_same(batch, states), [batch] * len(states), flat) for batch in step]
    longest = max(len(step[state.name]) for state in states)
    passes = []
    for turn in range(longest):
        # In an epoch's last step, adapters may have different numbers of micro-batches.
        present = [index for index, state in enumerate(states) if turn < len(step[state.name])]
        own = [step[states[index].name][turn] for index in present]
        passes.append(_laid_out(_joined(own, [states[index] for index in present]), own, flat) | {"owners": present})
    return passes


def _laid_out(joined: Batch, batches: Sequence[Batch], flat: bool) -> Batch:
    """With ``flat`` positions of all adapters, each of its own batch, if asked for; else None."""
    if not flat:
        return joined | {"flat": None}
    adapters, first = [], 0
    for (state, _, _), batch in zip(joined["micro_batches"], batches, strict=True):
        # A mask of dropout is drawn for every position, so that nothing is common to rows.
        adapters.append(_rows(batch, first, shared=not state.dropout.drops))
        first += 0 if joined["copies"] > 1 else len(adapters[-1].mask_BS)
    positions = Flat.of(adapters)
    shares = [replace(share, rows=count) for share, count in zip(joined["shares"], positions.counts, strict=True)]
    return joined | {"flat": positions, "shares": shares}


def _rows(batch: Batch, first: int, shared: bool) -> Rows:
    inputs = batch["inputs"]
    names = ("attention_mask", "is_continuous_mask", "input_ids", "text_input_ids")
    mask_BS, audio_BS, *ids = (inputs[name].numpy() for name in names)
    prompt = 0
    if shared and len(mask_BS) > 1:
        same_S = mask_BS.astype(bool).all(0) & ~audio_BS.any(0)
        for ids_BS in ids:
            same_S &= (ids_BS == ids_BS[0]).all(0)
        prompt = int(np.logical_and.accumulate(same_S).sum())
    return Rows(mask_BS.astype(bool), batch["text_loss_mask"].numpy(), prompt, first)


def _same(batch: Batch, states: Sequence[AdapterState]) -> Batch:
    targets, length = Targets.of(batch), batch["text_loss_mask"].shape[1]
    share = _share(states[0], batch, targets)
    return {
        "inputs": batch["inputs"],
        "text_loss_mask": batch["text_loss_mask"],
        "copies": len(states),
        "weight": batch["weight"],
        "targets": [targets] * len(states),
        "shares": [replace(share, name=state.name) for state in states],
        "micro_batches": [(state, batch["number"], length) for state in states],
        "owners": list(range(len(states))),
    }


def _joined(batches: Sequence[Batch], states: Sequence[AdapterState]) -> Batch:
    """All rows in one batch, grouped by adapter, right-padded to the longest."""
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
        "shares": list(map(_share, states, batches, targets)),
        "micro_batches": list(zip(states, [batch["number"] for batch in batches], lengths, strict=True)),
    }


def _share(state: AdapterState, batch: Batch, targets: Targets) -> Share:
    codes = int(batch["inputs"]["is_continuous_mask"].sum())
    return Share(state.name, targets.num_rows, codes, targets.labels_N.numel())


def repeated(model: PeftModel, inputs: Batch, mask_BS: Tensor, copies: int) -> tuple[Batch, Tensor]:
    """The model's inputs with every row and its features repeated ``copies`` times.

    For adapters before the first layer. The frozen Whisper encoder still runs once.
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
