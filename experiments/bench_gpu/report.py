"""The measurements as a Markdown page and as JSON."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
import transformers

from kimi_audio_ft.paths import CHECKOUT

Row = dict[str, Any]
Column = tuple[str, str, Callable[[Any], str]]


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _gigabytes(value: Any) -> str:
    return "-" if value is None else f"{value / 1e9:.2f}"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.2f}"


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _rate(value: float) -> str:
    return f"{value:,.1f}"


def _small_rate(value: float) -> str:
    return f"{value:.4g}"


_SPREAD: tuple[Column, ...] = (
    ("seconds", "median ms", _milliseconds),
    ("fastest", "fastest", _milliseconds),
    ("slowest", "slowest", _milliseconds),
)
_MEMORY: Column = ("peak_bytes", "peak GB", _gigabytes)
_AUDIO: tuple[Column, ...] = (
    ("windows", "30 s windows", _plain),
    *_SPREAD,
    ("hours_per_second", "hours of audio per second", _small_rate),
    _MEMORY,
)


@dataclass(frozen=True)
class Table:
    """Title, what the numbers mean, and columns: key in the row, heading, format."""

    title: str
    note: str
    columns: tuple[Column, ...]


TABLES: dict[str, Table] = {
    "matmul": Table(
        "Matrix product",
        "Random data, [rows, inputs] x [inputs, outputs]. The fastest is the peak of MFU below.",
        (
            ("rows", "rows", _plain),
            ("inputs", "inputs", _plain),
            ("outputs", "outputs", _plain),
            ("seconds", "median ms", _milliseconds),
            ("tflops", "TFLOP/s", _small_rate),
        ),
    ),
    "load": Table(
        "Random decoder",
        "Without the audio branch, made on the device.",
        (
            ("model", "model", _plain),
            ("parameters", "parameters", _plain),
            ("bytes", "weights GB", _gigabytes),
            _MEMORY,
            ("seconds", "s", _small_rate),
        ),
    ),
    "training": Table(
        "Training step",
        "Forward, backward, clipping and AdamW of an adapter (float32, `lora` defaults) over the frozen base: clips "
        "of 10 s in 180 positions, of which 40 are supervised. MFU counts what the step needs, HFU also what gradient "
        "checkpointing computes again; the count is in `experiments/bench_gpu/flops.py` (no weight gradients of the "
        "base). Peak memory includes the base.",
        (
            ("micro_batch", "micro-batch", _plain),
            ("checkpointing", "checkpointing", _yes_no),
            *_SPREAD,
            ("tokens_per_second", "tokens/s", _rate),
            ("audio_seconds_per_second", "audio s/s", _rate),
            ("mfu", "MFU", _percent),
            ("hfu", "HFU", _percent),
            _MEMORY,
        ),
    ),
    "switches": Table(
        "Ways of a step",
        "The same step with dropout, as the product computes it on a GPU, and without each of its ways.",
        (
            ("way", "way", _plain),
            ("micro_batch", "micro-batch", _plain),
            *_SPREAD,
            ("tokens_per_second", "tokens/s", _rate),
            ("audio_hours_per_hour", "audio hours per GPU-hour", _rate),
            ("mfu", "MFU", _percent),
            _MEMORY,
        ),
    ),
    "feeding": Table(
        "Feeding",
        "A step of single conversations of mixed length (1 to 30 s, most around 6 s) from the loader to the optimizer, "
        "as the product feeds a GPU, and without each of its ways. Tokens are those that are no padding; where the "
        "loader has workers, batches are laid out beside the steps.",
        (
            ("way", "way", _plain),
            ("conversations", "conversations", _plain),
            *_SPREAD,
            ("passes", "passes", _small_rate),
            ("padded", "padded positions for each useful one", _small_rate),
            ("tokens_per_second", "tokens/s", _rate),
            _MEMORY,
        ),
    ),
    "decoding": Table(
        "Decoding",
        "`generate_texts` over the base alone, every row to its full length. The first column of times is prompt and "
        "first token, then one step of the whole batch; tokens/s counts all of it.",
        (
            ("batch", "batch", _plain),
            ("temperature", "temperature", _plain),
            ("prompt_positions", "prompt", _plain),
            ("new_tokens", "new tokens", _plain),
            ("prefill_seconds", "first token ms", _milliseconds),
            ("seconds_per_step", "step ms", _milliseconds),
            ("seconds", "whole ms", _milliseconds),
            ("tokens_per_second", "tokens/s", _rate),
            _MEMORY,
        ),
    ),
    "whisper": Table("Whisper features", "Copy to the device and log-mel are counted in.", _AUDIO),
    "speech_tokenizer": Table("Speech tokenizer", "float32 without TF32; one clip of so many windows.", _AUDIO),
}


@dataclass
class Report:
    """Facts about the machine, and the rows of each table measured so far."""

    machine: dict[str, str]
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Everything, unrounded; seconds, bytes and operations."""
        return {"machine": self.machine, "tables": self.rows}

    def as_markdown(self) -> str:
        """The page."""
        facts = "\n".join(f"- {name}: {value}" for name, value in self.machine.items())
        parts = ["# GPU benchmark", "Written by `python -m experiments.bench_gpu --out FILE`.", facts]
        for name, rows in self.rows.items():
            table = TABLES[name]
            parts += [f"## {table.title}", table.note, _markdown_table(table.columns, rows)]
        return "\n\n".join(parts) + "\n"


def _markdown_table(columns: tuple[Column, ...], rows: list[Row]) -> str:
    lines = ["| " + " | ".join(heading for _, heading, _ in columns) + " |", "|" + "---:|" * len(columns)]
    for row in rows:
        cells = [shown(row[key]) if key in row else row.get("error", "-") for key, _, shown in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe_machine(device: torch.device, dtype: torch.dtype, commit: str | None) -> dict[str, str]:
    """Device, number format, versions, date and commit; "unknown" for what cannot be found out."""
    facts = {"device": platform.processor() or platform.machine()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts = {
            "device": f"{properties.name}, {properties.total_memory / 1e9:.1f} GB",
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "CUDA": str(torch.version.cuda),
        }
    return facts | {
        "number format": str(dtype).removeprefix("torch."),
        "PyTorch": torch.__version__,
        "transformers": transformers.__version__,
        "Python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit or _output("git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"),
    }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return " ".join(done.stdout.split())
