"""The measurements: each returns the rows of one table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from experiments.bench_gpu.flops import Matrices, step_flops
from experiments.bench_gpu.inputs import Clip, NumberTokenizer, batch_of, random_samples, random_waveforms
from experiments.bench_gpu.shapes import Shapes, random_decoder, random_speech_tokenizer, random_whisper
from experiments.bench_gpu.step import AdapterStep, OwnStep, Ways, adapter_on
from experiments.bench_gpu.timing import Clock, or_out_of_memory, release_memory
from kimi_audio_ft.config.train import DecodingConfig, LoraConfig, OptimConfig
from kimi_audio_ft.decoding.generate import generate_texts
from kimi_audio_ft.lora.adapter import trainable_parameters
from kimi_audio_ft.model import KimiAudioForCausalLM

Row = dict[str, Any]
NEVER = -1  # an end token that no model chooses, so that every row decodes to the end
WINDOW_SECONDS = 30.0
CLIP = Clip()


@dataclass(frozen=True)
class Plan:
    """The measurements: micro-batches of training, batches and answer length of decoding, 30 s windows of audio.

    workers: processes that lay out conversations; None: as many as the product takes on a GPU.
    until: time of ``time.monotonic`` after which no row is begun.
    """

    kind: Shapes
    clock: Clock
    matmul: int
    micro_batches: tuple[int, ...]
    decode_batches: tuple[int, ...]
    new_tokens: int
    windows: tuple[int, ...]
    dtype: torch.dtype = torch.bfloat16
    rank: int = 8
    workers: int | None = None
    until: float = math.inf

    def row(self, row: Row, measure: Callable[[], Row]) -> Row:
        """The row with what is measured, if it begins in time."""
        if time.monotonic() >= self.until:
            return row | {"error": "not begun (--limit)"}
        found = or_out_of_memory(row, measure)
        release_memory()
        return found


def measure_matmul(plan: Plan) -> Iterator[Row]:
    """A large square product, whose rate is the peak that MFU is measured against, and the model's own shapes."""
    hidden = plan.kind.decoder.get("hidden_size", 3584)
    inner = plan.kind.decoder.get("intermediate_size", 18944)
    sizes = [(plan.matmul,) * 3, *((batch * CLIP.positions, hidden, inner) for batch in plan.micro_batches)]
    for rows, inputs, outputs in sizes:
        row = {"rows": rows, "inputs": inputs, "outputs": outputs}
        yield or_out_of_memory(row, partial(_product, plan, rows, inputs, outputs))


def _product(plan: Plan, rows: int, inputs: int, outputs: int, count: int = 10) -> Row:
    """``count`` products in a row, so that the time to launch one is hidden behind the one before."""
    where: dict[str, Any] = {"device": plan.clock.device, "dtype": plan.dtype}
    left, right = torch.randn(rows, inputs, **where), torch.randn(inputs, outputs, **where)
    out = torch.empty(rows, outputs, **where)

    def multiply() -> None:
        for _ in range(count):
            torch.mm(left, right, out=out)

    seconds = plan.clock.time(multiply).seconds / count
    return {"seconds": seconds, "tflops": 2 * rows * inputs * outputs / seconds / 1e12}


def measure_load(plan: Plan) -> tuple[KimiAudioForCausalLM | None, list[Row]]:
    """The decoder with random weights on the device, which the next two measurements share."""
    clock = plan.clock
    clock.reset_peak()
    made: list[KimiAudioForCausalLM] = []

    def load() -> Row:
        started = time.perf_counter()
        made.append(random_decoder(plan.kind, plan.dtype, clock.device))
        if clock.device.type == "cuda":
            torch.cuda.synchronize(clock.device)
        seconds = time.perf_counter() - started
        parameters = sum(parameter.numel() for parameter in made[0].parameters())
        weight_bytes = sum(parameter.nbytes for parameter in made[0].parameters())
        return {"parameters": parameters, "bytes": weight_bytes, "peak_bytes": clock.peak_bytes(), "seconds": seconds}

    row = or_out_of_memory({"model": plan.kind.name}, load)
    return (made[0] if made else None), [row]


def measure_training(plan: Plan, model: KimiAudioForCausalLM, peak_tflops: float) -> Iterator[Row]:
    """Optimizer steps of an adapter, by micro-batch, with and without gradient checkpointing."""
    for checkpointing in (False, True):
        for size in plan.micro_batches:
            row = {"micro_batch": size, "checkpointing": checkpointing}
            yield plan.row(row, partial(_train, plan, model, size, checkpointing, peak_tflops))


def _train(plan: Plan, model: KimiAudioForCausalLM, size: int, checkpointing: bool, peak_tflops: float) -> Row:
    config, clock = model.model.config, plan.clock
    batch = batch_of(config, random_samples(config, [CLIP] * size), clock.device, plan.dtype)
    clock.reset_peak()
    with adapter_on(model, LoraConfig(r=plan.rank), checkpointing) as adapted:
        step = AdapterStep(adapted, OptimConfig())
        timing = clock.time(lambda: step(batch))
        flops = step_flops(Matrices.of(adapted, config), batch, checkpointing)
        trained = trainable_parameters(adapted)
    positions, seconds = size * CLIP.positions, timing.seconds
    return {
        **asdict(timing),
        "trained_parameters": trained,
        "positions": positions,
        "tokens_per_second": positions / seconds,
        "audio_seconds_per_second": size * CLIP.seconds / seconds,
        "useful_flops": flops.useful,
        "performed_flops": flops.performed,
        "mfu": flops.useful / seconds / 1e12 / peak_tflops,
        "hfu": flops.performed / seconds / 1e12 / peak_tflops,
        "peak_bytes": clock.peak_bytes(),
    }


SWITCHES = {
    "as on a GPU": Ways(),
    "plain layers and updates": Ways(fused=False),
    "logits at once": Ways(chunked=False),
    "with a mask": Ways(masked=True),
    "gradient checkpointing": Ways(checkpointing=True),
    "all of these": Ways(fused=False, chunked=False, masked=True, checkpointing=True),
}


def measure_switches(plan: Plan, model: KimiAudioForCausalLM, peak_tflops: float) -> Iterator[Row]:
    """A step of the largest micro-batch and of the smallest, as the product computes it, and without each way."""
    for size in (plan.micro_batches[-1], plan.micro_batches[0]):
        for name, ways in SWITCHES.items():
            row = {"way": name, "micro_batch": size}
            yield plan.row(row, partial(_switched, plan, model, size, ways, peak_tflops))


def _switched(plan: Plan, model: KimiAudioForCausalLM, size: int, ways: Ways, peak_tflops: float) -> Row:
    config, clock = model.model.config, plan.clock
    batch = batch_of(config, random_samples(config, [CLIP] * size), clock.device, plan.dtype)
    clock.reset_peak()
    with adapter_on(model, LoraConfig(r=plan.rank), ways.checkpointing) as adapted, OwnStep(adapted, ways).on() as loss:
        step = AdapterStep(adapted, OptimConfig(), loss)
        timing = clock.time(lambda: step(batch))
        flops = step_flops(Matrices.of(adapted, config), batch, ways.checkpointing)
    return {
        **asdict(timing),
        "tokens_per_second": size * CLIP.positions / timing.seconds,
        "audio_hours_per_hour": size * CLIP.seconds / timing.seconds,
        "mfu": flops.useful / timing.seconds / 1e12 / peak_tflops,
        "peak_bytes": clock.peak_bytes(),
    }


def measure_decoding(plan: Plan, model: KimiAudioForCausalLM) -> Iterator[Row]:
    """Answers of a fixed length, by batch: greedy, and as sampled by default."""
    sampled = DecodingConfig().text_temperature
    for temperature in (0.0, sampled):
        for size in plan.decode_batches:
            row = {"batch": size, "temperature": temperature, "new_tokens": plan.new_tokens}
            yield plan.row(row, partial(_decode, plan, model, size, temperature))


def _decode(plan: Plan, model: KimiAudioForCausalLM, size: int, temperature: float) -> Row:
    config, clock = model.model.config, plan.clock
    samples = random_samples(config, [CLIP] * size, for_generation=True)
    inputs = batch_of(config, samples, clock.device, plan.dtype, left=True)["inputs"]
    blank = NumberTokenizer(config).blank

    def seconds(new_tokens: int) -> float:
        decoding = DecodingConfig(text_temperature=temperature, max_new_tokens=new_tokens, batch_size=size)
        return clock.time(lambda: generate_texts(model, inputs, [decoding], [range(size)], NEVER, blank)[0]).seconds

    clock.reset_peak()
    first, whole = seconds(1), seconds(plan.new_tokens)
    return {
        "prompt_positions": inputs["input_ids"].shape[1],
        "prefill_seconds": first,
        "seconds": whole,
        "seconds_per_step": (whole - first) / (plan.new_tokens - 1),
        "tokens_per_second": size * plan.new_tokens / whole,
        "peak_bytes": clock.peak_bytes(),
    }


def measure_whisper(plan: Plan) -> Iterator[Row]:
    """Whisper features of 30 s windows from waveforms on the CPU: copy, log-mel and encoder."""
    clock = plan.clock
    extractor = random_whisper(plan.kind, plan.dtype, clock.device)
    for size in plan.windows:
        clips = random_waveforms(size, WINDOW_SECONDS)
        encode = partial(extractor.encode, clips, batch_size=size)
        yield plan.row({"windows": size}, partial(_audio_rate, clock, encode, size))


def measure_speech_tokenizer(plan: Plan) -> Iterator[Row]:
    """Codes of one clip of so many 30 s windows; it takes one clip at a time, and 8 windows of it at once."""
    clock = plan.clock
    tokenizer = random_speech_tokenizer(plan.kind, clock.device)
    for size in plan.windows:
        encode = partial(tokenizer.encode, random_waveforms(1, size * WINDOW_SECONDS))
        yield plan.row({"windows": size}, partial(_audio_rate, clock, encode, size))


def _audio_rate(clock: Clock, encode: partial[Any], windows: int) -> Row:
    clock.reset_peak()
    timing = clock.time(encode)
    audio_seconds = windows * WINDOW_SECONDS
    return {
        **asdict(timing),
        "audio_seconds": audio_seconds,
        "hours_per_second": audio_seconds / 3600 / timing.seconds,
        "peak_bytes": clock.peak_bytes(),
    }
