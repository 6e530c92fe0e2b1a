"""How much a GPU computes at once: passes that its memory holds, recomputing only where that is faster or must be.

A step's result depends on its conversations, not on how they are grouped into passes. Speed does depend on the
grouping: below a few thousand positions a GPU waits for the host to launch kernels. The formula of ``cost.memory`` says
how many fit; one pass of the largest step, thrown away again, says whether it is right.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import move_data_to_device

from kimi_audio_ft.base import Base, recompute
from kimi_audio_ft.cost.counted import Counts
from kimi_audio_ft.cost.machines import card
from kimi_audio_ft.cost.memory import CONTEXT_BYTES, SAFE, TrainingMemory
from kimi_audio_ft.cost.speed import PassTime
from kimi_audio_ft.data.batching import Seconds, cheapest_cut
from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.features.encode import DTYPES, online_bytes
from kimi_audio_ft.lora.targets import needs_whisper
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.runtime.devices import free_memory, memory_at_hand, out_of_memory
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.training.passes import turns

log = logging.getLogger(__name__)

# Positions of a validation's pass that are enough for a GPU, where a step has less.
ENOUGH = 4096
# Bytes of AdamW's two moments of a number, which the first step makes, and of its gradient, which lives from the first
# of several passes to the last.
_MOMENTS, _GRADIENT = 8, 4
# Steps of the first epoch for which keeping activations and recomputing them are compared, at most.
_COMPARED = 32


@dataclass(frozen=True)
class Way:
    """To train with activations that are kept, or recomputed.

    fitting: padded positions of a pass, of each adapter, that memory holds. seconds: of passes of so many.
    """

    fitting: int
    seconds: Seconds

    def time(self, steps: Sequence[np.ndarray]) -> float:
        """Of steps of conversations of such lengths, cut into passes that fit and take least time."""
        total = 0.0
        for lengths in map(np.sort, steps):
            bounds = cheapest_cut(lengths, self.fitting, self.seconds)
            total += float(self.seconds(np.diff(bounds) * lengths[bounds[1:] - 1]).sum())
        return total


def fill_passes(
    base: Base, module: AdapterTraining, specs: Sequence[AdapterSpec], data: Sequence[ConversationData]
) -> dict[str, Any]:
    """Decide on recomputation (``model.gradient_checkpointing=auto``), and on a GPU on ``data.pass_positions``.

    A CPU computes micro-batches one by one; so does every device where an adapter changes the encoder of recordings, of
    whose memory no formula tells. A sharded base always recomputes with auto.

    Args:
        data: of all adapters, or of each its own.

    Returns:
        Under "passes", for the adapters' record, the most ``positions`` of a pass and whether activations are
        ``recomputed``; nothing where every micro-batch is a pass and they are kept.
    """
    on_gpu, known = base.device.type == "cuda", not _adapts_encoder(base, specs)
    automatic = base.settings.gradient_checkpointing == "auto"
    tuned: Any = module.model.base_model.model
    for one in data:
        one.pass_positions, one.passes_together, one.pass_seconds = None, base.sharded, None
    if automatic and (base.sharded or not known or not (on_gpu or _keeps_micro_batches(base, specs, data))):
        recompute(tuned)
    if on_gpu and not known:
        log.info("every micro-batch is a pass: no formula tells the memory of a Whisper encoder with an adapter")
    elif on_gpu and base.sharded:
        _fill_shards(base, specs, data, tuned.is_gradient_checkpointing)
    elif on_gpu:
        _fill(base, module, specs, data)
    positions, recomputed = len(specs) * (data[0].pass_positions or 0), tuned.is_gradient_checkpointing
    if not positions and not recomputed:
        return {}
    return {"passes": {"positions": positions or None, "recomputed": recomputed}}


def _keeps_micro_batches(base: Base, specs: Sequence[AdapterSpec], data: Sequence[ConversationData]) -> bool:
    """Whether memory holds the activations of the largest micro-batch."""
    largest = max(one.most_positions // one.rules.accumulate for one in data)
    counts = _counts(base, specs, recomputing=False)
    return _fitting(base, specs, data, counts, memory_at_hand(base.device)) >= largest


def _fill(base: Base, module: AdapterTraining, specs: Sequence[AdapterSpec], data: Sequence[ConversationData]) -> None:
    """Passes of a GPU; all positions here are those of one adapter."""
    asked, adapters = data[0].settings.pass_positions, len(specs)
    tuned: Any = module.model.base_model.model
    memory, steps = memory_at_hand(base.device), [largest_step(one) for one in data]
    longest, largest = _longest(data), max(positions for positions, _ in steps)
    given = None if asked == "auto" else max(longest, int(asked) // adapters)

    def way_of(recomputing: bool) -> Way:
        counts, machine = _counts(base, specs, recomputing), card(torch.cuda.get_device_name(base.device))
        return Way(_fitting(base, specs, data, counts, memory), PassTime.of(counts, machine, adapters))

    way = way_of(tuned.is_gradient_checkpointing)
    if base.settings.gradient_checkpointing == "auto" and way.fitting < min(largest, given or largest):
        other, some = way_of(recomputing=True), _some_steps(data)
        # Passes of a given size are taken as they are, and may need all of it.
        if given or way.fitting < longest or other.time(some) < way.time(some):
            recompute(tuned)
            way = other
    # No more than a step holds, which is tried, or a validation, which keeps no activations, needs.
    evaluated = max(int(one.eval_set.lengths()[:, 0].sum()) for one in data)
    most = min(way.fitting, max(largest, min(ENOUGH // adapters, evaluated)))
    _use(data, given or max(longest, most))
    if given is None and most > longest:
        _use(data, _tried(module, data, [step for _, step in steps], most, (longest, largest), memory))
    if len(data) == 1:  # else passes of several adapters are joined one by one, and as few as possible suit each other
        data[0].pass_seconds = way.seconds
    kept = "recomputed" if tuned.is_gradient_checkpointing else "kept"
    log.info("passes of up to %d positions; activations are %s", adapters * (data[0].pass_positions or 0), kept)


def _some_steps(data: Sequence[ConversationData]) -> list[np.ndarray]:
    """Lengths of this rank's conversations in steps from the beginning to the end of the first epoch."""
    found = []
    for one in data:
        plan = one.plan.epoch(0)
        for step in range(0, len(plan), -(-len(plan) // _COMPARED)):
            found.append(one.plan.lengths[[draw.index for draw in plan.step(step, one.rules.rank, one.rules.ranks)]])
    return found


def _use(data: Sequence[ConversationData], positions: int) -> None:
    for one in data:
        one.pass_positions = positions


def _longest(data: Sequence[ConversationData]) -> int:
    return max(int(one.plan.lengths.max()) for one in data)


def _fitting(
    base: Base,
    specs: Sequence[AdapterSpec],
    data: Sequence[ConversationData],
    counts: Counts,
    memory: float,
    ranks: int = 1,
    context: int = 0,
) -> int:
    """Positions of each adapter for which memory suffices, as of ``TrainingMemory``."""
    answers = max(float((one.plan.supervised / one.plan.lengths).max()) for one in data)
    beside = online_bytes(base.files, base.settings.dtype, base.features)
    need = TrainingMemory.of(counts, len(specs), ranks, beside)
    return need.positions(memory, min(1.0, answers), context) // len(specs)


def _counts(base: Base, specs: Sequence[AdapterSpec], recomputing: bool) -> Counts:
    """With the largest of the adapters for all."""
    lora = max((spec.lora for spec in specs), key=lambda one: one.r)
    dtype, quantized = DTYPES[base.settings.dtype], base.settings.quantization is not None
    plain = base.plain or base.sharded
    return Counts(read_config(base.files.root), lora, dtype, recomputing, quantized, plain)


def _adapts_encoder(base: Base, specs: Sequence[AdapterSpec]) -> bool:
    return base.features == "online" and any(needs_whisper(base.targets(spec.lora)) for spec in specs)


def _fill_shards(base: Base, specs: Sequence[AdapterSpec], data: Sequence[ConversationData], recomputing: bool) -> None:
    """Passes of a base whose ranks compute each layer together, and must therefore take equally many.

    All that decides on them is the same on every rank: the cards' whole memory, the longest conversation and the plan
    of all ranks. None is tried, as the base is not on the cards yet: half of what fits by the formula has to do, which
    a step seldom needs.
    """
    asked, ranks = data[0].settings.pass_positions, data[0].rules.ranks
    if asked == "auto":
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        memory = float(min(one.total_memory for one in cards))
        fitting = _fitting(base, specs, data, _counts(base, specs, recomputing), memory, ranks, CONTEXT_BYTES) // 2
    else:
        fitting = int(asked) // len(specs)
    _use(data, max(_longest(data), fitting))
    shared = len(specs) * (data[0].pass_positions or 0)
    log.info("passes of up to %d positions, as many on each of %d ranks", shared, ranks)


def largest_step(data: ConversationData) -> tuple[int, int]:
    """Positions of the largest of this rank's steps in the first epoch, padded to one pass, and its number."""
    sizes = data.plan.epoch(0).sizes(data.rules.rank, data.rules.ranks)
    step = int(sizes.argmax())
    return int(sizes[step]), step


def _tried(
    module: AdapterTraining,
    data: Sequence[ConversationData],
    steps: Sequence[int],
    most: int,
    sizes: tuple[int, int],
    memory: float,
) -> int:
    """At most so many positions, of which a pass there and back fits into memory with what outlives it.

    Args:
        steps: of each data its largest.
        sizes: positions of the longest conversation, the fewest of a pass, and of the largest step.
    """
    fewest, largest = sizes
    trained = [parameter for parameter in module.model.parameters() if parameter.requires_grad]
    device = trained[0].device
    numbers = sum(parameter.numel() for parameter in trained)
    while most > fewest:
        limit = SAFE * memory - (_MOMENTS + (_GRADIENT if most < largest else 0)) * numbers
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        tried = _pass(module, data, steps, device)
        if tried is not None:
            need, room = torch.cuda.max_memory_allocated(device) - before, limit - before
            if need <= room:
                return most
            # Several adapters' passes are padded to the longest, and may be larger than is allowed to each.
            most = int(min(most, tried / len(module.states)) * max(0.0, room) / max(1, need))
        else:
            most //= 2
        free_memory()
        _use(data, max(fewest, most))
    return fewest


def _pass(
    module: AdapterTraining, data: Sequence[ConversationData], steps: Sequence[int], device: torch.device
) -> int | None:
    """Compute the largest pass of these steps, there and back; all adapters' positions, or None without the memory."""
    largest = [_largest_pass(one, step) for one, step in zip(data, steps, strict=True)]
    step: Any = [largest[0]]
    if len(data) > 1:
        step = {state.name: [own] for state, own in zip(module.states, largest, strict=True)}
    try:
        [batch] = turns(move_data_to_device(step, device), module.states, module.flat)
        module.seed_masks(batch, epoch=0)
        module(batch, module.average).sum().backward()
        return int(batch["inputs"]["input_ids"].numel()) * int(batch["copies"])
    except Exception as error:
        if not out_of_memory(error):
            raise
        return None
    finally:
        module.zero_grad(set_to_none=True)


def _largest_pass(data: ConversationData, step: int) -> dict[str, Any]:
    return max(data.step(0, step), key=lambda one: one["inputs"]["input_ids"].numel())
