"""How much a GPU computes at once: passes of as many positions as its memory holds, recomputing only where it must.

A step's result hangs on its conversations, not on the passes that they are put together into; a GPU's speed does: below
some thousand positions it waits for the host, which starts its kernels. The formula of ``cost.memory`` says how many
fit; one pass of the largest step, thrown away again, says whether it is right.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.utilities import move_data_to_device

from kimi_audio_ft.base import Base, recompute
from kimi_audio_ft.cost.counted import Counts
from kimi_audio_ft.cost.machines import card
from kimi_audio_ft.cost.memory import SAFE, TrainingMemory
from kimi_audio_ft.cost.speed import ENOUGH, PassTime
from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.features.encode import DTYPES, online_bytes
from kimi_audio_ft.lora.targets import needs_whisper
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.runtime.devices import free_memory, out_of_memory
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.training.passes import turns

log = logging.getLogger(__name__)

# Bytes of AdamW's two moments of a number, which the first step makes, and of its gradient, which lives from the first
# of several passes to the last.
_MOMENTS, _GRADIENT = 8, 4


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
    if automatic and (base.sharded or not known):
        recompute(tuned)
    for one in data:
        one.pass_positions, one.passes_together, one.pass_seconds = None, base.sharded, None
    if on_gpu and not known:
        log.info("every micro-batch is a pass: no formula tells the memory of a Whisper encoder with an adapter")
    elif on_gpu and base.sharded:
        _fill_shards(base, specs, data, tuned.is_gradient_checkpointing)
    elif known and not base.sharded and (on_gpu or automatic):
        _fill(base, module, specs, data)
    positions, recomputed = len(specs) * (data[0].pass_positions or 0), tuned.is_gradient_checkpointing
    if not positions and not recomputed:
        return {}
    return {"passes": {"positions": positions or None, "recomputed": recomputed}}


def _fill(base: Base, module: AdapterTraining, specs: Sequence[AdapterSpec], data: Sequence[ConversationData]) -> None:
    asked, on_gpu = data[0].settings.pass_positions, base.device.type == "cuda"
    tuned: Any = module.model.base_model.model
    longest = len(specs) * max(int(one.plan.lengths.max()) for one in data)
    largest = len(specs) * max(largest_step(one)[0] for one in data)
    memory, answers = _memory(base.device), max(float((one.plan.supervised / one.plan.lengths).max()) for one in data)
    beside = online_bytes(base.files, base.settings.dtype, base.features)

    def fitting(counts: Counts) -> int:
        need = TrainingMemory.of(counts, len(specs), beside=beside)
        return need.positions(memory, min(1.0, answers), context=0)

    automatic = base.settings.gradient_checkpointing == "auto"
    if automatic and must_recompute(fitting(_counts(base, specs, recomputing=False)), largest):
        recompute(tuned)
    if not on_gpu:
        return
    counts = _counts(base, specs, tuned.is_gradient_checkpointing)
    # No more than a step holds, which is tried, or a validation, which keeps no activations, needs.
    evaluated = len(specs) * max(int(one.eval_set.lengths()[:, 0].sum()) for one in data)
    most = min(fitting(counts), max(largest, min(ENOUGH, evaluated)))
    _use(data, len(specs), max(longest, most if asked == "auto" else int(asked)))
    if asked == "auto" and most > longest:
        _use(data, len(specs), max(longest, _tried(module, data, most, (longest, largest), memory)))
    if len(data) == 1:  # else passes of several adapters are joined one by one, and as few as possible suit each other
        data[0].pass_seconds = PassTime.of(counts, card(torch.cuda.get_device_name(base.device)), len(specs))
    shared = len(specs) * (data[0].pass_positions or 0)
    kept = "recomputed" if tuned.is_gradient_checkpointing else "kept"
    log.info("passes of up to %d positions; activations are %s", shared, kept)


def must_recompute(fitting: int, largest_step: int) -> bool:
    """Whether activations need too much memory: for a whole step, or for as many positions as keep a GPU busy."""
    return fitting < min(ENOUGH, largest_step)


def _use(data: Sequence[ConversationData], adapters: int, positions: int) -> None:
    for one in data:
        one.pass_positions = positions // adapters


def _memory(device: torch.device) -> float:
    """Bytes that this process may use, the base included; CUDA's own are no longer among a card's free ones."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _counts(base: Base, specs: Sequence[AdapterSpec], recomputing: bool) -> Counts:
    """With the largest of the adapters for all."""
    lora = max((spec.lora for spec in specs), key=lambda one: one.r)
    dtype, quantized = DTYPES[base.settings.dtype], base.settings.quantization is not None
    return Counts(read_config(base.files.root), lora, dtype, recomputing, quantized)


def _adapts_encoder(base: Base, specs: Sequence[AdapterSpec]) -> bool:
    return base.features == "online" and any(needs_whisper(base.targets(spec.lora)) for spec in specs)


def _fill_shards(base: Base, specs: Sequence[AdapterSpec], data: Sequence[ConversationData], recomputing: bool) -> None:
    """Passes of a base whose ranks compute each layer together, and must therefore take equally many.

    All that decides on them is the same on every rank: the cards' whole memory, the longest conversation and the plan
    of all ranks. None is tried, as the base is not on the cards yet: half of what fits by the formula has to do, which
    a step seldom needs.
    """
    asked, ranks = data[0].settings.pass_positions, data[0].rules.ranks
    longest = len(specs) * max(int(one.plan.lengths.max()) for one in data)
    if asked == "auto":
        answers = max(float((one.plan.supervised / one.plan.lengths).max()) for one in data)
        lora, dtype = max((spec.lora for spec in specs), key=lambda one: one.r), base.settings.dtype
        counts = Counts(read_config(base.files.root), lora, DTYPES[dtype], recomputing, plain=True)
        need = TrainingMemory.of(counts, len(specs), ranks, online_bytes(base.files, dtype, base.features))
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        asked = need.positions(min(card.total_memory for card in cards), min(1.0, answers)) // 2
    _use(data, len(specs), max(longest, int(asked)))
    shared = len(specs) * (data[0].pass_positions or 0)
    log.info("passes of up to %d positions, as many on each of %d ranks", shared, ranks)


def largest_step(data: ConversationData) -> tuple[int, int]:
    """Positions of the largest of this rank's steps in the first epoch, padded to one pass, and its number."""
    plan, rules = data.plan.epoch(0), data.rules

    def size(step: int) -> int:
        lengths = [int(data.plan.lengths[draw.index]) for draw in plan.step(step, rules.rank, rules.ranks)]
        return len(lengths) * max(lengths)

    return max((size(step), step) for step in range(len(plan)))


def _tried(
    module: AdapterTraining, data: Sequence[ConversationData], most: int, sizes: tuple[int, int], memory: float
) -> int:
    """At most so many positions, of which a pass there and back fits into memory with what outlives it.

    Args:
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
        tried = _pass(module, data, device)
        if tried is not None:
            need = torch.cuda.max_memory_allocated(device) - before
            if before + need <= limit:
                return most
            most = min(most, int(tried * max(0.0, limit - before) / max(1, need)))
        else:
            most //= 2
        free_memory()
        _use(data, len(module.states), max(fewest, most))
    return fewest


def _pass(module: AdapterTraining, data: Sequence[ConversationData], device: torch.device) -> int | None:
    """Compute the largest pass of the largest step, there and back; its positions, or None without the memory."""
    largest = [_largest_pass(one) for one in data]
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


def _largest_pass(data: ConversationData) -> dict[str, Any]:
    passes = data.step(0, largest_step(data)[1])
    return max(passes, key=lambda one: one["inputs"]["input_ids"].numel())
