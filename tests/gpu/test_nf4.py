"""The base in 4 bits at full size: its memory, that it computes nearly the same, and that an adapter trains on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from experiments.bench_gpu.inputs import Clip, batch_of, random_samples
from experiments.bench_gpu.shapes import Shapes, random_decoder
from experiments.bench_gpu.step import AdapterStep, adapter_on
from kimi_audio_ft.config.train import LoraConfig, OptimConfig
from kimi_audio_ft.model.quantization import quantize_layers

pytest.importorskip("bitsandbytes", reason="the 4-bit base needs bitsandbytes")
Distance = Callable[[Tensor, Tensor], float]


def test_a_quarter_of_the_layers_memory_and_an_adapter_learns(
    device: torch.device, full_size: Shapes, distance: Distance
) -> None:
    model = random_decoder(full_size, torch.bfloat16, device)
    config = model.model.config
    batch = batch_of(config, random_samples(config, [Clip(3, 40, 10), Clip(5, 21, 9)], seed=1), device, torch.bfloat16)
    mask = batch["text_loss_mask"]

    def logits() -> Tensor:
        with torch.no_grad():
            return model(**batch["inputs"], audio_branch=False, text_positions=mask).text_logits

    whole, before = logits(), sum(p.nbytes for p in model.parameters())
    layers = sum(p.nbytes for n, p in model.named_parameters() if n.endswith("_proj.weight") and "layers." in n)
    quantize_layers(model, device)
    saved = before - sum(p.nbytes for p in model.parameters())
    assert saved == pytest.approx(0.75 * layers, rel=0.01)
    assert distance(logits(), whole) < 0.5  # random weights are the hardest to round
    with adapter_on(model, LoraConfig(r=8, lora_dropout=0.0), checkpointing=True) as adapted:
        step = AdapterStep(adapted, OptimConfig(lr=1e-3))
        losses = [float(step(batch)) for _ in range(6)]
    assert losses[-1] < losses[0]
