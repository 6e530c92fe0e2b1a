"""How long it takes from a long manifest to its first batch, and what memory that needs.

    python -m experiments.bench_data --lines 100000 1000000

Manifests of codes without recordings (data.features=none) are made in a temporary folder, with lengths as of 9 s clips.
Every row is a process of its own: "cold" with an empty store, "warm" with what the first one has remembered.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

FIRST_CODE, NUM_CODES = 152064, 16384
CHARACTERS = "今天的会议现在开始我们讨论下一个问题谢谢大家明年公司收入增长了多少投资项目由他负责请先介绍情况"
MEASURES = {
    "open_seconds": "index and lengths, s",
    "identity_seconds": "identity, s",
    "first_batch_seconds": "from nothing to the first batch, s",
    "cpu_seconds": "the same, CPU s of all processes",
    "peak_mib": "peak memory over the start, MiB",
    "batches_per_second_0": "micro-batches/s, no worker",
    "batches_per_second_2": "micro-batches/s, 2 workers",
}


def write_manifest(path: Path, lines: int, seed: int = 0) -> None:
    """A pretokenized manifest: 60 to 170 codes (4.8 to 13.6 s of audio) and 20 to 60 characters a line."""
    rng = random.Random(seed)
    codes = [rng.randrange(FIRST_CODE, FIRST_CODE + NUM_CODES) for _ in range(5000)]
    text = "".join(rng.choices(CHARACTERS, k=5000))
    ask = '{"role": "user", "message_type": "text", "content": "请把这段语音转录成文字。"}'
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            start, length = rng.randrange(4000), rng.randint(20, 60)
            spoken = codes[start : start + rng.randint(60, 170)]
            file.write(
                f'{{"id": "utt{number:08d}", "task_type": "understanding", "conversation": [{ask}, {{"role": "user", '
                f'"message_type": "audio", "content": "clips/{number // 1000:04d}/{number:08d}.wav", "audio_tokens": '
                f'{spoken}}}, {{"role": "assistant", "message_type": "text", '
                f'"content": "{text[start : start + length]}"}}]}}\n'
            )


def memory_mib(field: str) -> float:
    """A field of this process's status, such as VmRSS (now) or VmHWM (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(field)


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (0, resource.RUSAGE_CHILDREN)))


def measure(manifest: Path, evaluation: Path, steps: int) -> dict[str, float]:
    """Open a manifest as a trial does, in this process; the imports and the tokenizer come before the clock."""
    import torch

    from kimi_audio_ft.config.train import DataConfig, ModelConfig
    from kimi_audio_ft.data.datamodule import BatchRules, ConversationData
    from kimi_audio_ft.features.encode import Encoders
    from kimi_audio_ft.manifest.conversation import TokenRange
    from kimi_audio_ft.manifest.manifest import manifest_identity, read_manifest
    from kimi_audio_ft.model import TextTokenizer
    from kimi_audio_ft.model.files import locate

    torch.set_num_threads(1)
    files = locate(ModelConfig())
    tokenizer, tokens = TextTokenizer.from_pretrained(files.root), TokenRange(FIRST_CODE, FIRST_CODE + NUM_CODES)
    settings = DataConfig(str(manifest), str(evaluation), features="none", batch_size=4)
    encoders = Encoders(files, False, torch.float32)
    found: dict[str, float] = {}
    memory, files_read = memory_mib("VmRSS"), memory_mib("RssFile")
    cpu, started = cpu_seconds(), time.perf_counter()
    opened = read_manifest(manifest, tokens=tokens, tokenizer=tokenizer)
    found["open_seconds"] = time.perf_counter() - started
    manifest_identity(opened)
    found["identity_seconds"] = time.perf_counter() - started - found["open_seconds"]
    data = ConversationData(settings, tokenizer, encoders, tokens, BatchRules(8, "sample", 1))
    data.setup()
    next(iter(data.train_dataloader()))
    found["first_batch_seconds"] = time.perf_counter() - started
    found["cpu_seconds"] = cpu_seconds() - cpu
    # Pages of libraries that a forked process looks at for the first time are no memory of its own.
    found["peak_mib"] = memory_mib("VmHWM") - memory - max(0.0, memory_mib("RssFile") - files_read)
    for workers in (0, 2) if steps else ():
        settings.num_workers = workers
        loader = iter(data.train_dataloader())
        next(loader)  # the workers' start
        started = time.perf_counter()
        count = sum(len(step) for step in islice(loader, steps))
        found[f"batches_per_second_{workers}"] = count / (time.perf_counter() - started)
        del loader
    return found


def rows(lines: int, steps: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Seconds of the first and of the second process that open a new manifest."""
    with tempfile.TemporaryDirectory() as name:
        manifest, evaluation = Path(name) / "train.jsonl", Path(name) / "eval.jsonl"
        write_manifest(manifest, lines)
        write_manifest(evaluation, 100, seed=1)
        command = [sys.executable, "-m", "experiments.bench_data", "--steps", str(steps), "--measure"]
        environment = {**os.environ, "KIMI_AUDIO_FT_STORE": str(Path(name) / "store")}
        for kind in ("cold", "warm"):
            done = subprocess.run(
                [*command, str(manifest), str(evaluation)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            yield kind, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print one table, lines and state of the store in the columns."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_data", description=__doc__)
    parser.add_argument("--lines", type=int, nargs="+", default=[100_000, 1_000_000], help="lengths of manifests")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of 8 micro-batches to time; 0: none")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead of the table")
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        manifest, evaluation = options.measure
        print(json.dumps(measure(manifest, evaluation, options.steps)))
        return
    found = []
    for lines in options.lines:
        for kind, values in rows(lines, options.steps):
            found.append((f"{lines:,} {kind}", values))
            if options.json:
                print(json.dumps({"lines": lines, "store": kind, **values}), flush=True)
    if options.json:
        return
    print("| | " + " | ".join(name for name, _ in found) + " |\n|---" + "|---:" * len(found) + "|")
    for key, words in MEASURES.items():
        if key in found[0][1]:
            print(f"| {words} | " + " | ".join(f"{values[key]:.2f}" for _, values in found) + " |")


if __name__ == "__main__":
    main()
