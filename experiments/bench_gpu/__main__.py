"""Measure training, decoding and encoding at full size on one device, with random weights and no downloads."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from experiments.bench_gpu import feeding, stages
from experiments.bench_gpu.report import TABLES, Report, describe_machine
from experiments.bench_gpu.shapes import NAMES, shapes
from experiments.bench_gpu.stages import Plan, Row
from experiments.bench_gpu.timing import Clock, release_memory
from kimi_audio_ft.files import write_json, write_text

# Side of the square product that measures the peak.
MATMUL = {"cuda": 8192, "cpu": 512}


def numbers(text: str) -> tuple[int, ...]:
    """A list of positive numbers such as ``1,4,16``."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,4,16") from None
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: every number must be 1 or more")
    return values


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to measure")
    parser.add_argument("--model", choices=NAMES, default="7b", help="shapes of the model and its encoders")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of base and Whisper")
    parser.add_argument("--tables", default=",".join(TABLES), help="which measurements to make")
    parser.add_argument("--micro-batches", type=numbers, default=(1, 4, 16), help="conversations per training step")
    parser.add_argument("--decode-batches", type=numbers, default=(1, 16, 64), help="conversations decoded together")
    parser.add_argument("--new-tokens", type=int, default=40, help="tokens of each decoded answer, 2 or more")
    parser.add_argument("--windows", type=numbers, default=(1, 8, 32), help="30 s windows encoded together")
    parser.add_argument("--workers", type=int, help="processes that lay out conversations; default: as the product has")
    parser.add_argument("--warmup", type=int, default=2, help="runs before the counted ones")
    parser.add_argument("--repeats", type=int, default=7, help="runs whose median is reported")
    parser.add_argument("--limit", type=float, default=480.0, help="seconds after which no row is begun")
    parser.add_argument("--out", type=Path, help="write the Markdown page there")
    parser.add_argument("--json", type=Path, help="write all numbers there, unrounded")
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell it")
    options = parser.parse_args(arguments)
    options.tables = options.tables.split(",")
    if unknown := set(options.tables) - TABLES.keys():
        parser.error(f"--tables: no {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    if options.new_tokens < 2 or options.repeats < 1 or options.warmup < 0:
        parser.error("--new-tokens must be 2 or more, --repeats 1 or more, --warmup 0 or more")
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers {options.workers}: must be 1 or more; one row is measured without any")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA GPU on this machine; --device cpu --model tiny tries the program out")
    for path in filter(None, (options.out, options.json)):
        path.parent.mkdir(parents=True, exist_ok=True)
    return options


def measure(plan: Plan, wanted: list[str]) -> Iterator[tuple[str, list[Row]]]:
    """Names of tables with their rows, each as soon as it is measured."""
    products = list(stages.measure_matmul(plan))
    peak = max(row["tflops"] for row in products if "tflops" in row)
    if "matmul" in wanted:
        yield "matmul", products
    if {"load", "switches", "feeding", "training", "decoding"} & set(wanted):
        model, loaded = stages.measure_load(plan)
        yield "load", loaded
        if model is not None and "switches" in wanted:
            yield "switches", list(stages.measure_switches(plan, model, peak))
        if model is not None and "feeding" in wanted:
            yield "feeding", list(feeding.measure_feeding(plan, model))
        if model is not None and "training" in wanted:
            yield "training", list(stages.measure_training(plan, model, peak))
        if model is not None and "decoding" in wanted:
            yield "decoding", list(stages.measure_decoding(plan, model))
        del model
        release_memory()
    if "whisper" in wanted:
        yield "whisper", list(stages.measure_whisper(plan))
        release_memory()
    if "speech_tokenizer" in wanted:
        yield "speech_tokenizer", list(stages.measure_speech_tokenizer(plan))


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write after every table, so that a run cut short leaves what it had."""
    options = parse(arguments)
    device = torch.device(options.device)
    plan = Plan(
        kind=shapes(options.model),
        clock=Clock(device, options.warmup, options.repeats),
        matmul=MATMUL[options.device],
        micro_batches=options.micro_batches,
        decode_batches=options.decode_batches,
        new_tokens=options.new_tokens,
        windows=options.windows,
        workers=options.workers,
        dtype=getattr(torch, options.dtype),
        until=time.monotonic() + options.limit,
    )
    report = Report(describe_machine(device, plan.dtype, options.commit))
    gc.freeze()  # before every row garbage is looked for, a third of a second long if also in all that is imported
    for name, rows in measure(plan, options.tables):
        report.rows[name] = rows
        late = sum("not begun" in row.get("error", "") for row in rows)
        more = f", and {late} were not begun within --limit={options.limit:g} seconds" if late else ""
        print(f"measured {name}: {len(rows) - late} rows{more}", file=sys.stderr, flush=True)
        if options.out:
            write_text(options.out, report.as_markdown())
        if options.json:
            write_json(options.json, report.as_json(), indent=2)
    print(report.as_markdown())


if __name__ == "__main__":
    main()
