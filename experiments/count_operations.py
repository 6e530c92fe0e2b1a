"""Count what a training step asks of a device, on the 7B's shapes, without the device: nothing is computed.

``python -m experiments.count_operations`` prints operations and bytes of one decoder layer, as they are on a GPU in
bfloat16 with ``model.kernels=plain`` and ``fused`` (counted as in ``kimi_audio_ft.cost``), and how much padding a step
of conversations of mixed length has in the passes that it is put together into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from experiments.bench_gpu.inputs import mixed_clips
from experiments.bench_gpu.shapes import Shapes, shapes
from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.cost.counted import Counter, Counts, counting
from kimi_audio_ft.cost.machines import MACHINES
from kimi_audio_ft.cost.speed import PassTime
from kimi_audio_ft.data.batching import BatchPlan, cheapest_cut
from kimi_audio_ft.lora.adapter import add_adapters
from kimi_audio_ft.lora.pack import Pack, Share, seed_dropout
from kimi_audio_ft.lora.update import own_updates
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM


@contextmanager
def adapted(model: KimiAudioForCausalLM, loras: Sequence[LoraConfig], rows: int, length: int) -> Iterator[nn.Module]:
    """The model with adapters on it in training, each with ``rows`` rows of ``length`` positions; without, alone."""
    if not loras:
        yield model
        return
    names = [f"a{number}" for number in range(len(loras))]
    peft = add_adapters(model, {name: (lora, 1) for name, lora in zip(names, loras, strict=True)})
    peft.train()
    one = len(loras) == 1
    with own_updates(peft, names[0]) if one else closing(Pack(peft, names, "batched")) as pack:
        if pack is not None:
            pack.shares = [Share(name, rows, 0, rows) for name in names]
        for name in names:
            answers = torch.arange(rows), torch.full((rows,), length - 1)
            seed_dropout(peft, name).by_place(1, 0, torch.arange(rows), length, answers)
        yield peft


def _decoder(kind: Shapes, layers: int) -> KimiAudioForCausalLM:
    own = {"num_hidden_layers": layers, "kimia_mimo_layers": 0, "kimia_mimo_transformer_from_layer_index": 0}
    torch.set_default_dtype(torch.bfloat16)
    try:
        return KimiAudioForCausalLM(KimiAudioConfig(**kind.decoder | own)).requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def step_of(
    kind: Shapes,
    layers: int,
    loras: Sequence[LoraConfig],
    fused: bool,
    rows: int = 1,
    length: int = 180,
    checkpointing: bool = False,
) -> Counter:
    """Operations of a step of a model of so many layers in bfloat16, with one answer token in each row."""
    with torch.device("meta"):
        model = _decoder(kind, layers)
        model.set_fused(fused)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with adapted(model, loras, rows, length) as training, counting() as counter:
            ids = torch.zeros(rows, length, dtype=torch.long)
            copies = max(1, len(loras))
            embedded = model.model.embed(ids, ids, None, None).repeat(copies, 1, 1)
            last = torch.arange(1, copies * rows + 1) * length - 1
            if isinstance(training, KimiAudioForCausalLM):
                embedded.requires_grad_(True)
            hidden, _ = model.model(embedded, None, None, False, last)
            model.lm_head(hidden).sum().backward()
    return counter


# Adapters of one pack, and whether layers are computed again in the backward pass.
WAYS: dict[str, tuple[list[LoraConfig], bool]] = {
    "base alone": ([], False),
    "r 8 without dropout": ([LoraConfig(lora_dropout=0.0)], False),
    "r 8": ([LoraConfig()], False),
    "r 8, gradient checkpointing": ([LoraConfig()], True),
    "pack of 4, r 8": ([LoraConfig()] * 4, False),
}


def per_layer(kind: Shapes, loras: Sequence[LoraConfig], fused: bool, checkpointing: bool = False) -> tuple[int, int]:
    """Operations and bytes of one more layer, at 16 clips of 180 positions for each adapter."""
    few, more = (step_of(kind, n, loras, fused, rows=16, checkpointing=checkpointing).count for n in (2, 3))
    layer = more.plus(few, -1)
    return round(layer.kernels), round(layer.product_bytes + layer.other_bytes)


# Conversations of a micro-batch, and micro-batches of a step.
STEPS = ((1, 8), (4, 2), (8, 1), (1, 32))
CLIPS = 2048


def padding(batch_size: int, accumulate: int, seconds: PassTime) -> list[tuple[float, float, float]]:
    """Padded positions of an epoch's steps for each that is none, passes of a step, and milliseconds of it.

    By micro-batch, as one pass, and in passes that take least time.
    """
    lengths = np.array([clip.positions for clip in mixed_clips(CLIPS)])
    plan = BatchPlan(lengths, lengths, batch_size, 10**9, accumulate, bucket=True, average="sample", seed=1).epoch(0)
    steps = [plan.step(number) for number in range(len(plan))]
    found = []
    for way in range(3):
        sizes: list[int] = []
        for draws in steps:
            own = np.array([lengths[draw.index] for draw in draws])
            if way == 0:
                bounds = np.flatnonzero(np.diff([-1, *(draw.number for draw in draws), -1]))
            else:
                own = np.sort(own)
                bounds = np.array([0, len(own)]) if way == 1 else cheapest_cut(own, 10**9, seconds)
            sizes += [int((end - start) * own[start:end].max()) for start, end in pairwise(bounds)]
        time = float(seconds(np.array(sizes)).sum())
        found.append((sum(sizes) / int(lengths.sum()), len(sizes) / len(steps), 1000 * time / len(steps)))
    return found


def main() -> None:
    """Print the tables."""
    kind = shapes("7b")
    print("| a layer's forward and backward, 2,880 positions | operations, plain | fused | GB, plain | fused |")
    print("|---|---:|---:|---:|---:|")
    for name, (loras, checkpointing) in WAYS.items():
        counts = [per_layer(kind, loras, fused, checkpointing) for fused in (False, True)]
        operations, sizes = zip(*counts, strict=True)
        print(f"| {name} | {operations[0]} | {operations[1]} | {sizes[0] / 1e9:.1f} | {sizes[1] / 1e9:.1f} |")
    print("\n| padded positions for each useful one, passes, ms of a step | by micro-batch | one pass | by time |")
    print("|---|---:|---:|---:|")
    whole = Counts(KimiAudioConfig(), LoraConfig(), torch.bfloat16)
    for machine in ("h100", "a100", "4090"):
        seconds = PassTime.of(whole, MACHINES[machine])
        for batch_size, accumulate in STEPS:
            ways = padding(batch_size, accumulate, seconds)
            cells = [f"{padded:.2f}, {passes:.1f}, {time:.0f}" for padded, passes, time in ways]
            print(f"| {MACHINES[machine].name}: {batch_size} x {accumulate} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
