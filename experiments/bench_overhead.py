"""Cost of the sweep engine itself: a sweep of the tiny model that finds everything in the store.

    python -m experiments.bench_overhead --trials 36 200 1000

Every number of trials gets a store of its own, filled with adapters and transcripts that were never computed: the time
of training and decoding is not what is asked here. Measured is the whole command as a person types it, with Python's
start, imports and the jobs: seconds of the processor, those of the programs that it calls included, and its largest
memory. The first run, which keeps its scores, is not counted. A run in which nothing has changed shows the report that
there is again; the last column is that of runs that make it anew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.bench_data import CHARACTERS
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.sweep_folder import MADE_OF

if TYPE_CHECKING:
    from kimi_audio_ft.sweep.launch import Job

FIRST_CODE, NUM_CODES = 1467, 256  # the tiny model's
TRAIN_CLIPS, EVAL_CLIPS = 768, 96  # as many as in `make demo`
TEMPERATURES = (0.0, 0.1, 0.2, 0.3)


def sweep(trials: int) -> list[list[str]]:
    """Overrides of so many trials, a whole grid of ranks, rates and four temperatures, as a person would type it."""
    adapters, rest = divmod(trials, len(TEMPERATURES))
    if rest or not adapters:
        raise SystemExit(f"--trials {trials}: must be a multiple of {len(TEMPERATURES)}, an adapter's temperatures")
    count = max(number for number in range(1, adapters + 1) if adapters % number == 0 and number**2 <= adapters)
    ranks = [2 * (1 + number) for number in range(adapters // count)]
    rates = [f"{1e-4 * (1 + number):g}" for number in range(count)]
    return [
        [f"lora.r={rank}", f"optim.lr={rate}", f"decoding.text_temperature={temperature}"]
        for rank, rate, temperature in product(ranks, rates, TEMPERATURES)
    ]


def write_manifest(path: Path, clips: int, seed: int, first_code: int = FIRST_CODE) -> None:
    """A pretokenized manifest of so many short recordings, with the recordings."""
    rng = random.Random(seed)
    (path.parent / path.stem).mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        for number in range(clips):
            audio = path.parent / path.stem / f"{number}.wav"
            with wave.open(str(audio), "wb") as recording:
                recording.setparams((1, 2, 16_000, 0, "NONE", ""))
                recording.writeframes(rng.randbytes(32_000))  # played in the report; the codes are given
            codes = [first_code + rng.randrange(NUM_CODES) for _ in range(rng.randint(20, 60))]
            conversation = [
                {"role": "user", "message_type": "text", "content": "请转写"},
                {"role": "user", "message_type": "audio", "content": str(audio), "audio_tokens": codes},
                {"role": "assistant", "message_type": "text", "content": "".join(rng.choices(CHARACTERS, k=15))},
            ]
            row = {"id": f"u{number}", "task_type": "understanding", "conversation": conversation}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def arguments(folder: Path) -> list[str]:
    """Options of all trials."""
    return [
        f"data.train_manifest={folder / 'train.jsonl'}",
        f"data.eval_manifest={folder / 'eval.jsonl'}",
        "data.features=none",
        "logger=none",
        f"hydra.sweep.dir={folder / 'sweep'}",
    ]


def fill(folder: Path, trials: int) -> None:
    """Put into the store what a sweep would make, with made-up numbers and transcripts."""
    from kimi_audio_ft import store
    from kimi_audio_ft.decoding.request import DecodingRequest
    from kimi_audio_ft.decoding.transcripts import transcript_signatures
    from kimi_audio_ft.inputs import Inputs
    from kimi_audio_ft.sweep.launch import missing_units
    from kimi_audio_ft.trial import Trial

    rng, inputs = random.Random(1), Inputs()
    units, _ = missing_units(planned(folder, trials))
    for unit in units:
        trial = Trial(unit.config, inputs=inputs)
        references = trial.evaluation.references
        facts = {
            **{
                "steps": 216,
                "train_seconds": 40.0,
                "trainable_parameters": 1,
                "eval_identity": trial.evaluation.identity,
            },
            **{"final_train_loss": rng.random(), "final_val_loss": rng.random()},
        }

        def adapter(folder: Path, facts: dict[str, Any] = facts) -> dict[str, Any]:
            row = {"epoch": 1.0, "split": "train", "lr": 1e-4}
            points = [{**row, "step": step, "loss": rng.random()} for step in range(9, 217, 9)]
            write_jsonl(folder / "curves.jsonl", points)
            write_json(folder / "data.json", {"conversations": TRAIN_CLIPS})
            return facts

        def transcript(folder: Path, references: dict[str, str] = references) -> dict[str, Any]:
            rows = [{"id": key, "text": "".join(rng.choices(text, k=14))} for key, text in references.items()]
            write_jsonl(folder / "transcripts.jsonl", rows)
            return {"decode_seconds": 3.0}

        if unit.key != "base":
            store.find_or_make("adapter", unit.key, adapter)
        for config in unit.jobs:
            request = DecodingRequest(config.decoding, config.seed)
            key = None if unit.key == "base" else unit.key
            for name in transcript_signatures(trial.evaluation, request, key):
                store.find_or_make("transcript", name, transcript)


def planned(folder: Path, trials: int) -> Sequence[Job]:
    """The sweep's jobs."""
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext, RunMode

    from kimi_audio_ft.config.launcher import LauncherConfig
    from kimi_audio_ft.config.train import TrainConfig
    from kimi_audio_ft.paths import config_dir
    from kimi_audio_ft.sweep.compose import TemplateLoader
    from kimi_audio_ft.sweep.launch import Launch, Runner

    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(config_dir(), job_name="train", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", arguments(folder), RunMode.MULTIRUN, with_log_configuration=False)
        loader: Any = TemplateLoader(hydra.config_loader)
        launch = Launch(LauncherConfig(), Runner(HydraContext(loader, Callbacks(config)), lambda own: None, config))
        shared = [override for override in arguments(folder) if not override.startswith("hydra.")]
        return launch.compose([[*shared, *own] for own in sweep(trials)], 0)


class Cost(NamedTuple):
    """Of one run of a command: seconds of the processor and on the wall, and the largest memory in MB."""

    processor: float
    wall: float
    megabytes: float


def cost_of(folder: Path, trials: int) -> Cost:
    """Cost of the sweep as a person types it."""
    points = sweep(trials)
    axes: dict[str, dict[str, None]] = {}
    for overrides in points:
        for override in overrides:
            key, value = override.split("=")
            axes.setdefault(key, {})[value] = None
    grid = [f"{key}={','.join(values)}" for key, values in axes.items()]
    command = [sys.executable, "-m", "kimi_audio_ft.train", "-m", *arguments(folder), *grid]
    started = time.perf_counter()
    with (folder / "printed.txt").open("w") as printed:
        env = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}  # nobody else compiles the modules in every run
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=env)
        _, status, used = os.wait4(process.pid, 0)
    said = (folder / "printed.txt").read_text(encoding="utf-8")
    assert status == 0 and f"{trials} trials finished" in said, said
    return Cost(used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024)


def measure(folder: Path, trials: int, runs: int) -> tuple[Cost, Cost]:
    """Medians over the runs, in a fresh store: where nothing has changed, and where the report is made anew."""
    write_manifest(folder / "train.jsonl", TRAIN_CLIPS, 1)
    write_manifest(folder / "eval.jsonl", EVAL_CLIPS, 2)
    os.environ["KIMI_AUDIO_FT_STORE"] = str(folder / "store")
    # In a process of its own: a child's largest memory begins at that of its parent.
    options = ["--fill", str(folder), "--trials", str(trials)]
    subprocess.run([sys.executable, "-m", "experiments.bench_overhead", *options], check=True)
    anew, again = [], []
    for _ in range(1 + runs):  # the first run makes the scores too
        (folder / "sweep" / MADE_OF).unlink(missing_ok=True)
        anew.append(cost_of(folder, trials))
        again.append(cost_of(folder, trials))
    return _medians(again[1:]), _medians(anew[1:])


def _medians(found: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(figures) for figures in zip(*found, strict=True)))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[36, 200, 1000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill is not None:
        fill(options.fill, options.trials[0])
        return
    print(f"load {os.getloadavg()[0]:.1f} at the start, medians of {options.runs} runs")
    print("| trials, all stored | seconds of the processor | on the wall | largest memory | report made anew |")
    print("|---:|---:|---:|---:|---:|")
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as name:
            cost, anew = measure(Path(name), trials, options.runs)
        figures = f"{cost.processor:.2f} | {cost.wall:.2f} | {cost.megabytes:.0f} MB | {anew.processor:.2f}"
        print(f"| {trials} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
