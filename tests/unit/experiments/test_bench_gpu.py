"""The parts of the GPU benchmark: its count of operations, its clock, its rows without memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench_gpu.flops import Matrices, step_flops
from experiments.bench_gpu.inputs import Clip, batch_of, random_samples
from experiments.bench_gpu.report import Report
from experiments.bench_gpu.shapes import random_decoder, shapes
from experiments.bench_gpu.stages import Plan, measure_training
from experiments.bench_gpu.step import adapter_on, batch_loss
from experiments.bench_gpu.timing import Clock, or_out_of_memory
from kimi_audio_ft.config.train import LoraConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning")
CPU = torch.device("cpu")


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_operations_are_those_that_pytorch_counts(checkpointing: bool) -> None:
    model = random_decoder(shapes("tiny"), torch.float32, CPU)
    model.set_plain(decoder=True, whisper=True)  # as in bfloat16; in float32 the last layer computes answers only
    model.set_attn_implementation("eager")  # the counter sees its products; SDPA's on a CPU it does not
    config = model.model.config
    batch = batch_of(config, random_samples(config, [Clip(8, 30, 12)] * 2), CPU, torch.float32)
    with adapter_on(model, LoraConfig(r=4, lora_dropout=0.0), checkpointing) as adapted:
        count = step_flops(Matrices.of(adapted, config), batch, checkpointing)
        counter = FlopCounterMode(display=False)
        with counter:
            loss = batch_loss(adapted, batch)
            forward = counter.get_total_flops()
            loss.backward()
        performed = counter.get_total_flops()
    rotary = 2 * 58 * 16 * 2  # positions times frequencies, as a product; the formula leaves it out
    assert forward == pytest.approx(count.forward, rel=0, abs=2 * rotary)
    # The first layer's q, k and v pass nothing back to the embeddings, which the formula does not take off; with
    # checkpointing they do, for PEFT then makes the embeddings ask for a gradient.
    width = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    unpassed = 0 if checkpointing else 2 * 2 * 58 * (width + 3 * 4) * config.hidden_size
    assert performed == pytest.approx(count.performed - unpassed, rel=0.002)
    assert (count.recompute > 0) == checkpointing and count.useful == count.forward + count.backward


@pytest.mark.slow
def test_matrices_of_the_7b() -> None:
    """Counted on the meta device: all parameters of the text path but embedding, norms and biases."""
    with torch.device("meta"):
        model = random_decoder(shapes("7b"), torch.bfloat16, torch.device("meta"))
    total = sum(parameter.numel() for parameter in model.parameters())
    flat = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)
    with adapter_on(model, LoraConfig(r=8)) as adapted:
        found = Matrices.of(adapted, model.model.config)
    assert total == 7_764_266_496
    assert found.lora == 20_185_088
    assert found.head == 168448 * 3584
    assert found.layers + found.adaptor + 2 * found.head == total - flat


def test_the_default_clip_is_10_seconds_in_180_positions() -> None:
    config = random_decoder(shapes("tiny"), torch.float32, torch.device("meta")).model.config
    [sample] = random_samples(config, [Clip()])
    assert (Clip().positions, Clip().seconds) == (180, 10.0) == (len(sample.layout), 10.0)
    assert sum(sample.layout.text_loss_mask) == 40


def test_the_clock_counts_only_its_repeats() -> None:
    runs: list[int] = []
    timing = Clock(CPU, warmup=2, repeats=5).time(lambda: runs.append(1))
    assert len(runs) == 7 and 0 <= timing.fastest <= timing.seconds <= timing.slowest


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")]
)
def test_a_row_without_memory_says_so_and_frees_its_tensors(error: RuntimeError) -> None:
    kept: list[weakref.ref] = []

    def measure() -> dict[str, Any]:
        tensor = torch.zeros(3)
        kept.append(weakref.ref(tensor))
        raise error

    row = or_out_of_memory({"micro_batch": 16, "checkpointing": False}, measure)
    error.__traceback__ = None
    gc.collect()
    assert row == {"micro_batch": 16, "checkpointing": False, "error": "out of memory"} and kept[0]() is None
    line = Report({}, {"training": [row]}).as_markdown().splitlines()[-1]
    assert line.startswith("| 16 | no | out of memory |")


def test_rows_that_are_not_begun_in_time_say_so() -> None:
    plan = Plan(shapes("tiny"), Clock(CPU, 0, 1), 8, (1, 2), (1,), 2, (1,), until=0.0)
    model = random_decoder(shapes("tiny"), torch.float32, torch.device("meta"))
    rows = list(measure_training(plan, model, 1.0))
    assert [row["error"] for row in rows] == ["not begun (--limit)"] * 4
    assert "| 2 | yes | not begun (--limit) |" in Report({}, {"training": rows}).as_markdown()


def test_another_error_is_not_taken_for_it() -> None:
    def measure() -> dict[str, Any]:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        or_out_of_memory({}, measure)
