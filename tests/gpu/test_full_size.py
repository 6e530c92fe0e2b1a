"""The full-size decoder with random weights in bf16: 15.5 GB of it, an adapter on it, and answers from it.

bf16 rounding in 28 layers moves logits by about 4 % of their length (a narrow model of that depth, on a CPU), and a
batch differs from its rows alone by about 1 % because products of another shape sum in another order. Bounds are
loose multiples of that, and far below what a mistake would do: the logits of another row are 127 % away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.bench_gpu.inputs import Clip, NumberTokenizer, batch_of, random_samples
from experiments.bench_gpu.shapes import Shapes, random_decoder
from experiments.bench_gpu.step import AdapterStep, OwnStep, Ways, adapter_on, batch_loss
from kimi_audio_ft.config.train import DecodingConfig, LoraConfig, OptimConfig
from kimi_audio_ft.data.dataset import Sample
from kimi_audio_ft.decoding.generate import generate_texts
from kimi_audio_ft.lora.adapter import adapter_state, trainable_parameters
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM

Distance = Callable[[Tensor, Tensor], float]

BF16 = torch.bfloat16
SAME_UP_TO_ROUNDING = 0.1
# Two logits nearer than this may change places in bf16: several of its steps at the height of the likeliest ones.
CLOSE_LOGITS = 0.25
# 28 layers, embedding, text head, adaptor: 9,766,334,464 of the checkpoint less the audio branch's 2,002,067,968.
TEXT_PATH_PARAMETERS = 7_764_266_496
# Ragged, so that every batch has padding.
RAGGED = [Clip(8, 60, 12), Clip(3, 17, 25), Clip(12, 125, 5), Clip(1, 33, 9)]
NEVER = -1


@pytest.fixture(scope="module")
def model(full_size: Shapes, device: torch.device) -> Iterator[KimiAudioForCausalLM]:
    """The decoder, once for all tests of this file."""
    yield random_decoder(full_size, BF16, device)


@pytest.fixture(scope="module")
def config(model: KimiAudioForCausalLM) -> KimiAudioConfig:
    return model.model.config


@pytest.fixture
def batch(config: KimiAudioConfig, device: torch.device) -> dict[str, Any]:
    """A ragged training batch."""
    return batch_of(config, random_samples(config, RAGGED[:2]), device, BF16)


def test_it_has_the_published_size_and_type(
    model: KimiAudioForCausalLM, full_size: Shapes, device: torch.device
) -> None:
    parameters = list(model.parameters())
    assert {parameter.dtype for parameter in parameters} == {BF16}
    assert {parameter.device.type for parameter in parameters} == {device.type}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.model.rotary_emb.inv_freq[0].item() == 1.0
    if full_size.name == "7b":
        assert sum(parameter.numel() for parameter in parameters) == TEXT_PATH_PARAMETERS
        assert torch.cuda.memory_allocated() < 1.1 * 2 * TEXT_PATH_PARAMETERS, "one copy of the weights"


def test_forward_is_finite(model: KimiAudioForCausalLM, config: KimiAudioConfig, batch: dict[str, Any]) -> None:
    with torch.no_grad():
        out = model(**batch["inputs"], audio_branch=False)
    rows, length = batch["inputs"]["input_ids"].shape
    assert out.text_logits.shape == (rows, length, config.vocab_size) and out.audio_logits is None
    assert out.text_logits.isfinite().all()
    assert 0.1 < out.text_logits.float().std() < 10, "as large as random weights of this size make them"


@pytest.mark.parametrize("left", [False, True], ids=["padded_behind", "padded_in_front"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_batch_is_its_rows_one_by_one(
    model: KimiAudioForCausalLM,
    config: KimiAudioConfig,
    device: torch.device,
    distance: Distance,
    left: bool,
    attention: str,
) -> None:
    samples = random_samples(config, RAGGED)
    batch = batch_of(config, samples, device, BF16, left=left)["inputs"]
    model.set_attn_implementation(attention)
    try:
        with torch.no_grad():
            together = model(**batch, audio_branch=False).text_logits
            for row, sample in enumerate(samples):
                alone = model(**batch_of(config, [sample], device, BF16)["inputs"], audio_branch=False).text_logits[0]
                real = batch["attention_mask"][row].bool()
                assert distance(together[row, real], alone) < SAME_UP_TO_ROUNDING
                other = together[(row + 1) % len(samples), -10:] if left else together[(row + 1) % len(samples), :10]
                assert distance(alone[-10:] if left else alone[:10], other) > 3 * SAME_UP_TO_ROUNDING
    finally:
        model.set_attn_implementation("sdpa")


def test_adapter_starts_as_on_the_cpu_and_learns(
    model: KimiAudioForCausalLM, full_size: Shapes, config: KimiAudioConfig, batch: dict[str, Any]
) -> None:
    """A repeated batch is learnt; the loss starts near that of a guess, and the base stays as it is."""
    before = model.model.layers[0].mlp.down_proj.weight.clone()
    with adapter_on(model, LoraConfig(r=8, lora_dropout=0.0)) as adapted:
        state = adapter_state(adapted)
        assert {value.dtype for value in state.values()} == {torch.float32}
        if full_size.name == "7b":
            assert trainable_parameters(adapted) == 20_185_088
        step = AdapterStep(adapted, OptimConfig(lr=1e-3))
        losses = [step(batch).item() for _ in range(10)]
    assert losses[0] == pytest.approx(math.log(config.vocab_size), rel=0.25)
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0] - 0.5
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, before)
    assert not any("lora_" in name for name, _ in model.named_parameters())


def gradients(
    model: KimiAudioForCausalLM, batch: dict[str, Any], device: torch.device, checkpointing: bool
) -> tuple[Tensor, int, int]:
    """All gradients of one step in a row, peak memory in bytes, and how often the layers' attention ran."""
    runs = []
    hooks = [layer.self_attn.register_forward_pre_hook(lambda *_: runs.append(1)) for layer in model.model.layers]
    try:
        with adapter_on(model, LoraConfig(r=8, lora_dropout=0.0), checkpointing) as adapted:
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:  # zero at the start, which would leave lora_A without a gradient
                    generator = torch.Generator(device).manual_seed(len(name))
                    parameter.data.normal_(0.0, 0.01, generator=generator)
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            batch_loss(adapted, batch).backward()
            peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
            found = [parameter.grad for parameter in adapted.parameters() if parameter.grad is not None]
            assert len(found) == sum(parameter.requires_grad for parameter in adapted.parameters())
            return torch.cat([gradient.flatten().cpu() for gradient in found]), peak, len(runs)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning")
def test_gradient_checkpointing_really_checkpoints(
    model: KimiAudioForCausalLM, config: KimiAudioConfig, device: torch.device, distance: Distance
) -> None:
    """The same gradients from the same kernels, each layer computed twice, and less memory at its peak."""
    batch = batch_of(config, random_samples(config, [Clip()] * (4 if device.type == "cuda" else 1)), device, BF16)
    plain, plain_peak, once = gradients(model, batch, device, checkpointing=False)
    checked, checked_peak, twice = gradients(model, batch, device, checkpointing=True)
    assert plain.isfinite().all() and plain.any()
    assert distance(checked, plain) < 0.02
    assert (once, twice) == (config.num_hidden_layers, 2 * config.num_hidden_layers)
    if device.type == "cuda":
        weights = sum(parameter.nbytes for parameter in model.parameters())
        assert checked_peak - weights < 0.5 * (plain_peak - weights)


def generate(
    model: KimiAudioForCausalLM, samples: list[Sample], device: torch.device, dtype: torch.dtype, count: int
) -> list[list[int]]:
    config = model.model.config
    inputs = batch_of(config, samples, device, dtype, left=True)["inputs"]
    decoding = DecodingConfig(text_temperature=0.0, max_new_tokens=count)
    return generate_texts(model, inputs, [decoding], [range(len(samples))], NEVER, NumberTokenizer(config).blank)[0]


def test_generating_a_batch_is_generating_its_rows(
    model: KimiAudioForCausalLM, config: KimiAudioConfig, device: torch.device
) -> None:
    """Equal tokens up to the first place where two logits are too close for bf16 to order them."""
    samples, count = random_samples(config, RAGGED, for_generation=True), 12
    together = generate(model, samples, device, BF16, count)
    equal = 0
    for sample, ours in zip(samples, together, strict=True):
        [alone] = generate(model, [sample], device, BF16, count)
        same = next((place for place in range(count) if ours[place] != alone[place]), count)
        equal += same
        if same < count:
            first, second = logits_after(model, sample, alone[:same], device)[[alone[same], ours[same]]].tolist()
            assert abs(first - second) < CLOSE_LOGITS, (sample.id, same)
    assert equal >= count, "too little was compared"


@torch.no_grad()
def logits_after(model: KimiAudioForCausalLM, sample: Sample, answer: list[int], device: torch.device) -> Tensor:
    """Logits behind a prompt and the start of its answer, in one pass without a cache."""
    config = model.model.config
    inputs = batch_of(config, [sample], device, BF16)["inputs"]
    blank = NumberTokenizer(config).blank
    grow = torch.nn.functional.pad
    more = (0, len(answer))
    text = torch.tensor([answer], device=device, dtype=torch.long)
    out = model(
        input_ids=grow(inputs["input_ids"], more, value=blank),
        text_input_ids=torch.cat([inputs["text_input_ids"], text], dim=1),
        is_continuous_mask=grow(inputs["is_continuous_mask"], more, value=False),
        audio_features=inputs["audio_features"],
        audio_branch=False,
    )
    return out.text_logits[0, -1].float()


def test_generating_in_float32_is_exact(full_size: Shapes, device: torch.device) -> None:
    """Four layers of full width without rounding to speak of: a batch, its rows alone, and no cache at all agree."""
    changes = {"num_hidden_layers": 4, "kimia_mimo_transformer_from_layer_index": 2}
    model = random_decoder(full_size, torch.float32, device, **changes)
    samples = random_samples(model.model.config, RAGGED, for_generation=True)
    together = generate(model, samples, device, torch.float32, 8)
    for sample, ours in zip(samples, together, strict=True):
        assert generate(model, [sample], device, torch.float32, 8) == [ours]
        assert len(set(ours)) > 1


@pytest.mark.parametrize("left", ["fused", "chunked", "masked", "checkpointing"])
def test_every_way_of_a_step_can_be_left(
    model: KimiAudioForCausalLM, batch: dict[str, Any], distance: Distance, left: str
) -> None:
    """Loss and gradients with dropout are the same within bf16's rounding."""
    losses, grads = [], []
    for ways in (Ways(), replace(Ways(), **{left: not getattr(Ways(), left)})):
        with adapter_on(model, LoraConfig(r=8), ways.checkpointing) as adapted, OwnStep(adapted, ways).on() as step:
            loss = step(batch)
            loss.backward()
            losses.append(loss.item())
            ups = [value.grad for name, value in adapted.named_parameters() if "lora_B" in name]
            grads.append(torch.cat([grad.flatten() for grad in ups if grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert grads[0].any() and distance(grads[0], grads[1]) < 2 * SAME_UP_TO_ROUNDING
