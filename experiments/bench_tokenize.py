"""How fast are recordings tokenized, and how fast does a large feature store open?

    python -m experiments.bench_tokenize [--clips 48] [--entries 100000 1000000]

Tokenizes synthetic clips with the embedded model (or ``--model``, ``--speech-tokenizer``) at several batch sizes and by
one and two processes, each time into an empty store; then fills stores with that many entries of narrow features.
Numbers of one run and the machine they are from: ``bench_tokenize.md``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

NARROW = 4  # width of the synthetic store's features
ROWS = 125  # rows of each of its recordings: 10 s


def write_clips(folder: Path, count: int) -> Path:
    """Noise of 1 to 15 s, every eighth clip of 31 to 65 s; returns their manifest."""
    import soundfile

    from kimi_audio_ft.files import write_jsonl

    rng, lines = np.random.default_rng(1), []
    for index in range(count):
        seconds = rng.uniform(31, 65) if index % 8 == 7 else rng.uniform(1, 15)
        soundfile.write(folder / f"{index}.wav", rng.normal(0, 0.1, round(16000 * seconds)), 16000)
        audio = {"role": "user", "message_type": "audio", "content": f"{index}.wav"}
        lines.append({"id": str(index), "task_type": "understanding", "conversation": [audio]})
    write_jsonl(folder / "clips.jsonl", lines)
    return folder / "clips.jsonl"


def bench_tokenize(model: list[str], clips: int) -> None:
    """Rates that ``tokenize`` prints itself, and bytes of the store per second of audio."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = write_clips(folder, clips)
        for devices, batch_size in ((1, 1), (1, 8), (1, 16), (2, 8)):
            options = [f"devices={devices}", f"batch_size={batch_size}", "progress=false", *model]
            store = folder / f"store.{devices}.{batch_size}"
            command = [sys.executable, "-m", "kimi_audio_ft.tokenize", f"manifests=[{manifest}]", *options]
            environment = os.environ | {"KIMI_AUDIO_FT_STORE": str(store)}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            (line,) = re.findall(r"^encoded .*$", done.stdout, re.M)
            hours = float(re.findall(r"([\de.-]+) hours of audio, in", line)[0])
            size = sum(path.stat().st_size for path in (store / "features").rglob("*.bin"))
            print(f"processes {devices}, batch {batch_size}: {line}; {size / hours / 3600:.0f} bytes/s", flush=True)


def bench_store(entries: int) -> None:
    """Time and memory of opening a store of so many recordings in a fresh process, and of looking keys up."""
    with tempfile.TemporaryDirectory() as temporary:
        environment = os.environ | {"KIMI_AUDIO_FT_STORE": temporary}
        for task in (fill, look_up):
            command = [sys.executable, "-c", f"from experiments.bench_tokenize import *; {task.__name__}({entries})"]
            subprocess.run(command, env=environment, check=True)


def fill(entries: int) -> None:
    """Add entries in groups of 5,000."""
    import torch

    from kimi_audio_ft.store.features import FeatureStore

    store, rows, started = FeatureStore({"bench": "store"}, NARROW), torch.zeros(ROWS, NARROW), time.perf_counter()
    codes = list(range(ROWS))
    for start in range(0, entries, 5000):
        store.add([(f"key{index}", codes, rows) for index in range(start, min(start + 5000, entries))])
    print(f"{entries} entries: filled in {time.perf_counter() - started:.1f} s", flush=True)


def look_up(entries: int) -> None:
    """Open the store, ask for all keys at once, read some."""
    from kimi_audio_ft.store.features import FeatureStore

    before = resident_mb()
    started = time.perf_counter()
    store = FeatureStore({"bench": "store"}, NARROW)
    opened, after = time.perf_counter() - started, resident_mb()
    keys = [f"key{index}" for index in range(entries)]
    seconds = timed(lambda: store.rows_of(keys))
    some = [f"key{index}" for index in np.random.default_rng(1).integers(0, entries, 2000)]
    reading = timed(lambda: [(store.codes(key), store.features(key)) for key in some]) / len(some)
    print(
        f"{entries} entries: opened in {opened:.2f} s (+{after - before:.0f} MB resident, the mapped index included); "
        f"all keys looked up in {seconds:.2f} s; codes and features of one in {1e6 * reading:.0f} us",
        flush=True,
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def resident_mb() -> float:
    """Memory of this process that is in use now."""
    fields = dict(_status_fields())
    return int(fields["VmRSS"].split()[0]) / 1024


def _status_fields() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        yield name, value


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48, help="recordings to tokenize")
    parser.add_argument("--entries", type=int, nargs="*", default=[100_000, 1_000_000], help="sizes of stores to open")
    parser.add_argument("--model", default="tiny", help="model.path; with a checkpoint, its dtype is bfloat16")
    parser.add_argument("--speech-tokenizer", help="model.speech_tokenizer")
    options = parser.parse_args()
    model = []
    if options.model != "tiny":
        model = ["model=kimi_audio_7b_instruct", f"model.path={options.model}"]
        model += [f"model.speech_tokenizer={options.speech_tokenizer}"] if options.speech_tokenizer else []
    if options.clips:
        bench_tokenize(model, options.clips)
    for entries in options.entries:
        bench_store(entries)


if __name__ == "__main__":
    main()
