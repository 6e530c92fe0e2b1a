"""Forward passes of a pack: micro-batches with shared rows, or with each adapter's own rows in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from kimi_audio_ft.lora.pack import Share
from kimi_audio_ft.model.flat import Flat, Rows
from kimi_audio_ft.model.places import repeated_places
from kimi_audio_ft.training.adapters import AdapterState

Batch = dict[str, Any]
Step = list[Batch] | Mapping[str, list[Batch]]
"""Micro-batches of an optimizer step: shared by all adapters, or each one's own by its name."""


@dataclass(frozen=True)
class Targets:
    """Labels ``[N]`` of one adapter's supervised positions, and the row (0 to ``num_rows - 1``) and column of each.

    samples_R: number of every row's sample in the epoch. codes_N: places of audio codes among the rows' positions.
    """

    labels_N: Tensor
    rows_N: Tensor
    columns_N: Tensor
    num_rows: int
    samples_R: Tensor
    codes_N: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Targets:
        answers = batch["answers"]
        places = (answers["labels"], answers["rows"], answers["columns"])
        return cls(*places, len(batch["text_labels"]), batch["samples"], batch["inputs"]["audio_places"])

    def places(self, columns: int, first: int = 0) -> Tensor:
        """Where they are among the positions of a batch of so many columns, in which their rows begin at ``first``."""
        return (self.rows_N + first) * columns + self.columns_N


def turns(step: Step, states: Sequence[AdapterState], flat: bool = False) -> list[Batch]:
    """Forward passes of an optimizer step for these adapters.

    Each has the model's ``inputs`` and the ``answers``' places, whose rows are computed for ``copies`` adapters; its
    positions if asked for as ``flat``; and per adapter ``weights``, ``targets``, ``shares``, ``micro_batches`` (state,
    number, padded length) and ``owners`` (its index in ``states``). None of it takes a host sync.
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
    targets, length = Targets.of(batch), batch["text_labels"].shape[1]
    share = _share(states[0], batch, targets)
    return {
        "inputs": batch["inputs"],
        "answers": targets.places(length),
        "copies": len(states),
        "weights": [batch["weight"]] * len(states),
        "targets": [targets] * len(states),
        "shares": [replace(share, name=state.name) for state in states],
        "micro_batches": [(state, batch["number"], length) for state in states],
        "owners": list(range(len(states))),
    }


def _joined(batches: Sequence[Batch], states: Sequence[AdapterState]) -> Batch:
    """All rows in one batch, grouped by adapter, right-padded to the longest."""
    targets = [Targets.of(batch) for batch in batches]
    lengths = [batch["text_labels"].shape[1] for batch in batches]
    longest, firsts = max(lengths), [0, *accumulate(target.num_rows for target in targets)]

    def stacked(values: Sequence[Tensor]) -> Tensor:
        # Padding is any id under an attention mask of 0; its embedding reaches no loss.
        return torch.cat([nn.functional.pad(value, (0, longest - value.shape[1])) for value in values])

    def codes(batch: Batch, length: int, first: int) -> Tensor:
        places_N: Tensor = batch["inputs"]["audio_places"]
        rows_N = places_N.div(length, rounding_mode="floor")
        return places_N + rows_N * (longest - length) + first * longest

    names = ("input_ids", "text_input_ids", "is_continuous_mask", "attention_mask")
    inputs: Batch = {name: stacked([batch["inputs"][name] for batch in batches]) for name in names}
    inputs["audio_places"] = torch.cat(list(map(codes, batches, lengths, firsts)))
    for name in ("audio_features", "waveforms", "audio_lengths"):
        lists = [batch["inputs"].get(name) for batch in batches]
        if all(values is not None for values in lists):
            inputs[name] = [value for values in lists for value in values]
    return {
        "inputs": inputs,
        "answers": torch.cat([target.places(longest, first) for target, first in zip(targets, firsts, strict=False)]),
        "copies": 1,
        "weights": [batch["weight"] for batch in batches],
        "targets": targets,
        "shares": list(map(_share, states, batches, targets)),
        "micro_batches": list(zip(states, [batch["number"] for batch in batches], lengths, strict=True)),
    }


def _share(state: AdapterState, batch: Batch, targets: Targets) -> Share:
    return Share(state.name, targets.num_rows, len(batch["inputs"]["audio_places"]), targets.labels_N.numel())


def repeated(model: PeftModel, inputs: Batch, answers_N: Tensor, copies: int) -> tuple[Batch, Tensor]:
    """The model's inputs with every row and its features repeated ``copies`` times, and the answers' places.

    For adapters before the first layer. The frozen Whisper encoder still runs once.
    """
    rest = {name: value for name, value in inputs.items() if not isinstance(value, Tensor)}
    tensors = {
        name: value.repeat(copies, 1) for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim == 2
    }
    size = inputs["input_ids"].numel()
    tensors["audio_places"] = repeated_places(inputs["audio_places"], size, copies)
    waveforms = rest.pop("waveforms", None)
    if waveforms is not None:
        tuned: Any = model.base_model.model
        rest["audio_features"] = tuned.whisper_model(waveforms)
    if rest["audio_features"] is not None:
        rest["audio_features"] = list(rest["audio_features"]) * copies
    rest["audio_lengths"] = list(rest["audio_lengths"]) * copies
    return {**rest, **tensors}, repeated_places(answers_N, size, copies)
