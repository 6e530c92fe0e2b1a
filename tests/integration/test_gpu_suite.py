"""The GPU suite and benchmark on a machine without a GPU: skipped with the reason, and rehearsed at a small size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.forkserver import fork_command
from tests.integration.conftest import Outcome, Workplace

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = ("--workers", "1", "--micro-batches", "1,2", "--decode-batches", "1,3", "--new-tokens", "3", "--windows", "1")
TINY = ("--device", "cpu", "--model", "tiny", "--dtype", "float32", "--warmup", "0", "--repeats", "1", *SIZES)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs ``python -m``, with the libraries imported, at the top of the checkout."""

    def wait(module: str, *arguments: str, **environment: str) -> Outcome:
        out, err = tmp_path / "run.out", tmp_path / "run.err"
        process = fork_command(module, arguments, REPOSITORY, os.environ | environment, out, err)
        process.join()
        assert process.exitcode is not None
        return Outcome(process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    return wait


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so that the suite runs itself")
def test_without_a_gpu_the_suite_skips_with_the_reason(run: Callable[..., Outcome], workplace: Workplace) -> None:
    done = run("pytest", "tests/gpu", "-m", "gpu", "-rs", "-p", "no:cacheprovider", KIMI_AUDIO_FT_GPU_REHEARSAL="0")
    assert done.code == 0, done.out + done.err
    assert "no CUDA GPU on this machine" in done.out and "skipped" in done.out
    assert "passed" not in done.out and "failed" not in done.out
    refused = workplace.run("experiments.bench_gpu")
    assert refused.code == 2 and "no CUDA GPU on this machine" in refused.err


@pytest.mark.slow
def test_the_suite_passes_its_rehearsal(run: Callable[..., Outcome], shared_dir: Path) -> None:
    done = run("pytest", "tests/gpu", "-m", "gpu", "-v", "-p", "no:cacheprovider", KIMI_AUDIO_FT_GPU_REHEARSAL="1")
    assert done.code == 0, done.out[-3000:]
    assert "skipped" not in done.out


@pytest.mark.slow
def test_the_benchmark_end_to_end(run: Callable[..., Outcome], tmp_path: Path) -> None:
    """Every row is there, every number positive, and the rates are the counts divided by the times."""
    page, numbers = tmp_path / "new" / "bench.md", tmp_path / "bench.json"
    done = run("experiments.bench_gpu", *TINY, "--out", str(page), "--json", str(numbers), "--commit", "abc123")
    assert done.code == 0, done.err
    found = json.loads(numbers.read_text())
    assert found["machine"]["commit"] == "abc123" and found["machine"]["PyTorch"] == torch.__version__
    tables = found["tables"]
    counts = {name: len(rows) for name, rows in tables.items()}
    assert counts == {
        "matmul": 3,
        "load": 1,
        "switches": 12,
        "feeding": 6,
        "training": 4,
        "decoding": 4,
        "whisper": 1,
        "speech_tokenizer": 1,
    }
    for row in (row for rows in tables.values() for row in rows):
        assert "error" not in row
        noisy = {"temperature", "checkpointing", "seconds_per_step"}  # the last is a difference of two times
        assert all(value > 0 for key, value in row.items() if key not in noisy and isinstance(value, int | float)), row
    peak = max(row["tflops"] for row in tables["matmul"])
    for row in tables["training"]:
        assert row["positions"] == 180 * row["micro_batch"]
        assert row["tokens_per_second"] == pytest.approx(row["positions"] / row["seconds"])
        assert row["audio_seconds_per_second"] == pytest.approx(10 * row["micro_batch"] / row["seconds"])
        assert row["mfu"] == pytest.approx(row["useful_flops"] / row["seconds"] / 1e12 / peak)
        assert (row["hfu"] > row["mfu"]) == row["checkpointing"]
    assert [(row["micro_batch"], row["checkpointing"]) for row in tables["training"]] == [
        *((1, False), (2, False), (1, True), (2, True))
    ]
    filled = {row["way"]: row["passes"] for row in tables["feeding"]}
    assert filled["every micro-batch a pass"] == 2 and filled["one pass, whatever its padding"] == 1
    for row in tables["decoding"]:
        assert row["tokens_per_second"] == pytest.approx(3 * row["batch"] / row["seconds"])
    for row in (*tables["whisper"], *tables["speech_tokenizer"]):
        assert row["hours_per_second"] == pytest.approx(30 * row["windows"] / 3600 / row["seconds"])
    text = page.read_text(encoding="utf-8")
    assert done.out.strip() == text.strip()
    for row in tables["training"]:
        assert f"| {row['micro_batch']} | {'yes' if row['checkpointing'] else 'no'} |" in text


def test_a_wrong_option_of_the_benchmark_is_named(workplace: Workplace) -> None:
    done = workplace.run("experiments.bench_gpu", "--device", "cpu", "--micro-batches", "1,0")
    assert done.code == 2 and "'1,0': every number must be 1 or more" in done.err
