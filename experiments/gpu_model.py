"""Tables of gpu_model.md: step time, memory and GPU-hours of the 7B, told from counts. Nothing is measured on a GPU.

python -m experiments.gpu_model
"""

from __future__ import annotations

from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.cost.counted import Counts
from kimi_audio_ft.cost.machines import MACHINES, PRODUCTS_REACHED, Machine
from kimi_audio_ft.cost.memory import TrainingMemory
from kimi_audio_ft.cost.speed import StepTime, best_pack, decoding_seconds, step_time
from kimi_audio_ft.features.encode import DTYPES
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.model.config import KimiAudioConfig
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.text import duration

# A clip of 6 s: 75 codes, an answer of 25 tokens, a prompt and marks of 20. An optimizer step takes eight.
CODES, ANSWER, MARKS, CLIPS = 75, 25, 20, 8
POSITIONS = CODES + ANSWER + MARKS
# The sweep that is told of: adapters at so many temperatures, over recordings of which a tenth is decoded.
TRIALS, ADAPTERS, RECORDINGS, EPOCHS, ROWS = 8, 4, 1000, 5, 16
# Dollars for an hour of a rented card, an assumption.
DOLLARS = {"h100": 3.0, "a100": 1.8, "4090": 0.5}


class Model:
    """Counts of the 7B, or of the embedded model, with an adapter of rank 8; encoding: operations of a recording."""

    def __init__(self, quantized: bool = False, tiny: bool = False) -> None:
        shape = read_config(TINY_MODEL) if tiny else KimiAudioConfig()
        dtype = DTYPES["float32" if tiny else "bfloat16"]
        self.kept, self.recomputed = (
            Counts(shape, LoraConfig(), dtype, checkpointing, quantized) for checkpointing in (False, True)
        )
        # Whisper hears 30 s of every clip, in 1,500 rows; the speech tokenizer is half as deep.
        width, layers = (96, 2) if tiny else (1280, 32)
        self.encoding = 2 * 1.5 * 12 * width**2 * layers * 1500


def counted(model: Model) -> None:
    print("| counted, of the 7B with LoRA of rank 8 | fixed | each position, answer or row |\n|---|---|---|")
    for name, growing in (
        ("a pass there and back, activations kept", model.kept.position),
        ("the same, recomputed", model.recomputed.position),
        ("head and loss", model.kept.answer),
        ("a decoding step", model.kept.row),
    ):
        fixed, each = growing.fixed, growing.each
        moved = [one.product_bytes + one.other_bytes for one in (fixed, each)]
        print(
            f"| {name} | {fixed.kernels:,.0f} kernels, {moved[0] / 1e9:.1f} GB moved | {each.flops / 1e9:.1f} GFLOP, "
            f"{moved[1] / 1e6:.0f} MB moved, {each.peak / 1e6:.2f} MB kept |"
        )


def steps(models: dict[bool, Model]) -> None:
    print(f"\n| machine | base | adapters | step of {CLIPS} clips | positions/s | audio-hours/h | MFU | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for key, machine in MACHINES.items():
        if key == "laptop":
            continue
        quantized = _needs_nf4(machine)
        for adapters in (1, ADAPTERS):
            time = _step(models[quantized], machine, adapters)
            if time is None:
                print(f"| {machine.name} | {_base(quantized)} | {adapters} | does not fit | | | | |")
                continue
            audio = time.tokens_per_second / POSITIONS * CODES * 0.08
            mfu, memory = 100 * PRODUCTS_REACHED * time.mfu, time.peak / 1e9
            figures = (
                f"{time.seconds:.2g} s | {time.tokens_per_second:,.0f} | {audio:,.0f} | {mfu:.0f} % | {memory:.0f} GB"
            )
            print(f"| {machine.name} | {_base(quantized)} | {adapters} | {figures} |")


def sweeps(models: dict[bool, Model]) -> None:
    print(f"\n| {RECORDINGS:,} recordings, {TRIALS} trials | base | encode | train | decode | together | cost |")
    print("|---|---|---|---|---|---|---|")
    for key, machine in MACHINES.items():
        quantized = _needs_nf4(machine)
        sweep(machine, _base(quantized), models[quantized], DOLLARS.get(key))
    sweep(MACHINES["laptop"], "embedded", Model(tiny=True), None)


def sweep(machine: Machine, base: str, model: Model, dollars: float | None) -> None:
    sizes = (CLIPS * POSITIONS, CLIPS * ANSWER)
    time = best_pack(model.kept, model.recomputed, machine, 1 if machine.waits else ADAPTERS, *sizes)
    assert time is not None
    encode = RECORDINGS * model.encoding / machine.flops
    train = EPOCHS * 0.9 * RECORDINGS / CLIPS * ADAPTERS / time.adapters * time.seconds
    batches = -(-RECORDINGS // 10 // ROWS)
    rows, tokens = ROWS * TRIALS // ADAPTERS, round(1.5 * ANSWER)
    each = decoding_seconds(model.kept, machine, ROWS, rows, CODES + MARKS, tokens)
    decode = (1 + ADAPTERS) * batches * each
    whole = [duration(seconds) for seconds in (encode, train, decode, encode + train + decode)]
    cost = "" if dollars is None else f"${dollars * (encode + train + decode) / 3600:.2f}"
    print(f"| {machine.name} | {base} | {' | '.join(whole)} | {cost} |")


def _step(model: Model, machine: Machine, adapters: int) -> StepTime | None:
    return step_time(model.kept, model.recomputed, machine, adapters, CLIPS * POSITIONS, CLIPS * ANSWER)


def _needs_nf4(machine: Machine) -> bool:
    return machine.memory < 30e9


def _base(quantized: bool) -> str:
    return "nf4" if quantized else "bfloat16"


def memory_of(models: dict[bool, Model]) -> None:
    print("\n| base | activations | fixed | each position | each answer | positions in 24 GB | in 80 GB |")
    print("|---|---|---|---|---|---|---|")
    for quantized, model in models.items():
        for name, counts in (("kept", model.kept), ("recomputed", model.recomputed)):
            found = TrainingMemory.of(counts)
            room = " | ".join(f"{found.positions(size, ANSWER / POSITIONS):,}" for size in (24e9, 80e9))
            print(
                f"| {_base(quantized)} | {name} | {found.fixed / 1e9:.1f} GB | {found.position / 1e6:.2f} MB | "
                f"{found.answer / 1e6:.2f} MB | {room} |"
            )


if __name__ == "__main__":
    both = {quantized: Model(quantized) for quantized in (False, True)}
    counted(both[False])
    memory_of(both)
    steps(both)
    sweeps(both)
