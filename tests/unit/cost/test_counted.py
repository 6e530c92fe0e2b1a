"""Counts on the meta device: of the 7B, and of the embedded model beside the same step on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench_gpu.inputs import Clip, batch_of, random_samples
from experiments.bench_gpu.shapes import random_decoder, shapes
from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.cost.counted import Count, Counter, Counts, counting
from kimi_audio_ft.cost.memory import CONTEXT_BYTES, SAFE, DecodingMemory, TrainingMemory
from kimi_audio_ft.lora.adapter import ONE, add_adapter
from kimi_audio_ft.lora.update import own_updates
from kimi_audio_ft.model import KimiAudioConfig
from kimi_audio_ft.model.head_loss import CHUNK

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def counts() -> Counts:
    """Of the 7B with an adapter of rank 8, in bfloat16, without gradient checkpointing."""
    return Counts(KimiAudioConfig(), LoraConfig(r=8), torch.bfloat16)


def test_numbers_of_the_7b(counts: Counts) -> None:
    assert (counts.frozen, counts.trained) == (7_764_266_496, 20_185_088)
    assert counts.base_bytes == 2 * counts.frozen
    layers = 28 * (3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18944)
    read = counts.position.fixed.product_bytes
    # Forwards and backwards both read the layers' weights, but the last one's behind its attention, for one answer.
    assert 0.95 * 4 * layers < read < 1.05 * 4 * layers
    assert counts.row.fixed.product_bytes == pytest.approx(2 * layers + 2 * 168448 * 3584, rel=0.01)
    # Logits of a part in bfloat16 and float32, and the slopes of all its positions.
    assert counts.answer.fixed.peak == pytest.approx(CHUNK * 6 * 168448, rel=0.01)
    assert counts.answer.each.peak < 10 * 3584


def test_of_the_7b_each_part_grows_with_what_it_should(counts: Counts) -> None:
    assert counts.position.each.kernels == counts.row.each.kernels == counts.answer.each.kernels == 0
    assert counts.row.fixed.kernels < counts.position.fixed.kernels
    assert counts.position.each.peak > 28 * 2 * 3584 * 2  # more than the inputs of every layer's two halves


def test_4_bits_take_5_8_gb_of_the_7b_and_leave_room_for_more_positions(counts: Counts) -> None:
    packed = Counts(KimiAudioConfig(), None, torch.bfloat16, quantized=True)
    assert packed.base_bytes == pytest.approx(6.15e9, rel=0.01) and packed.trained == 0
    whole, quarter = TrainingMemory.of(counts), TrainingMemory.of(counts, adapters=4)
    assert quarter.fixed - whole.fixed == 3 * 16 * counts.trained
    room = whole.positions(80e9, answers=0.3)
    assert whole.peak(room, round(0.3 * room)) == pytest.approx(SAFE * 80e9 - CONTEXT_BYTES, rel=0.001)
    assert whole.positions(80e9 - CONTEXT_BYTES / SAFE, 0.3, context=0) == pytest.approx(room, abs=1)
    assert whole.positions(1e9) == 0


def test_a_batch_of_the_7b_is_mostly_keys_and_values(counts: Counts) -> None:
    need = DecodingMemory.of(counts, heard=True)
    assert need.cached == 28 * 2 * 4 * 128 * 2 and need.features == 4 * 5120
    each = need.utterance(prompt=400, tokens=400, together=8)
    assert 0.6 * each < 8 * 800 * need.cached < each
    assert need.utterances(80e9, each) == pytest.approx((SAFE * 80e9 - CONTEXT_BYTES - need.fixed) / each, abs=1)
    assert need.utterances(16e9, each) == 0, "the base alone does not fit"
    assert need.utterance(400, 400, 8, further=True) - each == 400 * need.cached
    # Whose prompts are long and whose answers are short, the prompts' own activations decide.
    assert need.utterance(4000, 1, 1) > 4001 * (need.cached + need.attended) + 4000 * need.features + need.row


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_memory_is_what_a_step_of_the_embedded_model_takes(checkpointing: bool) -> None:
    """Told from two and three layers on the meta device, taken by its four on a CPU."""
    model = random_decoder(shapes("tiny"), torch.float32, CPU)
    config, lora = model.model.config, LoraConfig(r=4, lora_dropout=0.0)
    counts = Counts(config, lora, torch.float32, checkpointing)
    told = TrainingMemory.of(counts)
    batch = batch_of(config, random_samples(config, [Clip(8, 60, 30)] * 4), CPU, torch.float32)
    answers, positions = int(batch["text_loss_mask"].sum()), batch["inputs"]["input_ids"].numel()
    taken = _computed(model, lora, batch, checkpointing)
    assert told.peak(positions, answers) - told.fixed == pytest.approx(taken.peak, rel=0.25)
    counted = counts.position.at(positions).plus(counts.answer.at(answers))
    assert counted.flops == pytest.approx(taken.flops, rel=0.15)
    assert counted.kernels == pytest.approx(taken.kernels, rel=0.15)


def test_what_is_computed_while_something_is_counted_is_computed_as_ever() -> None:
    x, options = torch.randn(2, 8, generator=torch.Generator().manual_seed(1)), {"weight": torch.ones(8), "eps": 0.1}
    plain = functional.rms_norm(x, (8,), **options)
    with counting() as counter:
        assert torch.equal(functional.rms_norm(x, (8,), **options), plain)
        before = counter.kernels
        functional.rms_norm(x.to("meta"), (8,), eps=0.1)
    assert counter.kernels - before == 2, "the copy, and a single kernel"


def _computed(model: Any, lora: LoraConfig, batch: dict[str, Any], checkpointing: bool) -> Count:
    """One forward and backward pass, counted while it is computed; PyTorch counts as many operations."""
    adapted = add_adapter(model, lora, 1)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    adapted.train()
    mask_BS = batch["text_loss_mask"]

    def compute() -> None:
        out = adapted(**batch["inputs"], audio_branch=False, text_positions=mask_BS, right_padded=True)
        functional.cross_entropy(out.text_logits.float(), batch["text_labels"][mask_BS]).backward()
        adapted.zero_grad()

    with own_updates(adapted, ONE):
        with Counter() as counter:
            compute()
        with FlopCounterMode(display=False) as flops:
            compute()
    # PyTorch does not count products in place, which add the small updates.
    assert flops.get_total_flops() <= counter.count.flops < 1.03 * flops.get_total_flops()
    return counter.count
