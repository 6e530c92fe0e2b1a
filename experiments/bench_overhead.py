"""Cost of the sweep engine itself: a sweep of the tiny model that finds everything in the store.

    python -m experiments.bench_overhead --trials 36 1000

Every number of trials gets a store of its own, filled with adapters and transcripts that were never computed: the time
of training and decoding is not what is asked here. The stages are timed in one process; the last column is the whole
command as a person types it, with Python's start, imports and the report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.bench_data import CHARACTERS
from kimi_audio_ft.files import write_json, write_jsonl

if TYPE_CHECKING:
    from kimi_audio_ft.sweep.launch import Job

FIRST_CODE, NUM_CODES = 1467, 256  # the tiny model's
TRAIN_CLIPS, EVAL_CLIPS = 864, 96  # as many as in `make demo`
TEMPERATURES = (0.0, 0.1, 0.2, 0.3)
STAGES = {
    "compose": "compose the jobs' configs",
    "sign": "check them, and their signatures",
    "look_up": "look for adapters and transcripts",
    "run": "run the jobs: look up, score, write",
    "report": "report and leaderboard",
}
# A store keeps the charts' script after its first report.
CHARTS_SCRIPT = "from multirun_analysis.report.page import chart_libraries; chart_libraries()"


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


def write_manifest(path: Path, clips: int, seed: int) -> None:
    """A pretokenized manifest of so many short recordings, with the recordings."""
    rng = random.Random(seed)
    (path.parent / path.stem).mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        for number in range(clips):
            audio = path.parent / path.stem / f"{number}.wav"
            audio.write_bytes(rng.randbytes(2000))  # never decoded: the codes are given
            codes = [rng.randrange(FIRST_CODE, FIRST_CODE + NUM_CODES) for _ in range(rng.randint(20, 60))]
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


def fill(jobs: Sequence[Job]) -> None:
    """Put into the store what the jobs would make, with made-up numbers and transcripts."""
    from kimi_audio_ft import store
    from kimi_audio_ft.decoding.request import DecodingRequest
    from kimi_audio_ft.decoding.transcripts import transcript_signatures
    from kimi_audio_ft.sweep.launch import missing_units
    from kimi_audio_ft.trial import Trial

    rng = random.Random(1)
    units, _ = missing_units(jobs)
    for unit in units:
        trial = Trial(unit.config)
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
            points = [{"split": "train", "step": step, "loss": rng.random(), "lr": 1e-4} for step in range(9, 217, 9)]
            write_jsonl(folder / "curves.jsonl", points)
            write_json(folder / "data.json", {"conversations": 864})
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


class Watch:
    """Seconds on the wall and of the CPU by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[stage] = (time.perf_counter() - wall, time.process_time() - cpu)


def stages(folder: Path, trials: int) -> dict[str, tuple[float, float]]:
    """Seconds of every stage, in this process; the first look at the sweep fills the store."""
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext, RunMode

    from kimi_audio_ft.cli import to_settings
    from kimi_audio_ft.config.launcher import LauncherConfig
    from kimi_audio_ft.config.train import TrainConfig
    from kimi_audio_ft.inputs import Inputs
    from kimi_audio_ft.paths import config_dir, project_root
    from kimi_audio_ft.sweep.launch import Launch, Runner, missing_units, prepare
    from kimi_audio_ft.sweep.report import write_sweep_report
    from kimi_audio_ft.train import main as train

    os.environ["KIMI_AUDIO_FT_ROOT"] = str(project_root())
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    overrides = sweep(trials)
    with initialize_config_dir(config_dir(), job_name="train", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", arguments(folder), RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(hydra.config_loader, Callbacks(config))
        task = train.__wrapped__  # type: ignore[attr-defined]
        launch = Launch(LauncherConfig(), Runner(context, lambda own: task(to_settings(own)), config))
        shared = [override for override in arguments(folder) if not override.startswith("hydra.")]
        fill(launch.compose([[*shared, *own] for own in overrides], 0))
        watch = Watch()
        with watch("compose"):
            jobs = launch.runner.compose([[*shared, *own] for own in overrides], 0)
        inputs = Inputs()
        with watch("sign"):
            for job in jobs:
                prepare(job, inputs)
        with watch("look_up"):
            units, _ = missing_units(jobs)
        assert not units
        with watch("run"):
            for job in jobs:
                with job.trial.given_to_job() if job.trial else nullcontext():
                    launch.run_job(job)
        with watch("report"):
            write_sweep_report(folder / "sweep")
    return watch.seconds


def whole_command(folder: Path, trials: int) -> tuple[float, float]:
    """Seconds on the wall and of the CPU of the sweep as a person types it, everything being in the store."""
    points = sweep(trials)
    axes: dict[str, dict[str, None]] = {}
    for overrides in points:
        for override in overrides:
            key, value = override.split("=")
            axes.setdefault(key, {})[value] = None
    grid = [f"{key}={','.join(values)}" for key, values in axes.items()]
    command = [sys.executable, "-m", "kimi_audio_ft.train", "-m", *arguments(folder), *grid]
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - started, os.times()
    assert done.returncode == 0 and f"{len(points)} trials finished" in done.stdout, done.stdout + done.stderr
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[36, 1000])
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        print(json.dumps(stages(options.inside, options.trials[0])))
        return
    columns = {}
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as name:
            columns[trials] = measure(Path(name), trials)
    print(f"| seconds on the wall (of the CPU) | {' | '.join(f'{trials} trials' for trials in columns)} |")
    print(f"|---|{'---:|' * len(columns)}")
    for stage, words in {**STAGES, "command": "the whole command, imports included"}.items():
        cells = [f"{column[stage][0]:.2f} ({column[stage][1]:.2f})" for column in columns.values()]
        print(f"| {words} | {' | '.join(cells)} |")


def measure(folder: Path, trials: int) -> dict[str, tuple[float, float]]:
    """Every stage, and the whole command, for so many trials in a fresh store."""
    write_manifest(folder / "train.jsonl", TRAIN_CLIPS, 1)
    write_manifest(folder / "eval.jsonl", EVAL_CLIPS, 2)
    os.environ["KIMI_AUDIO_FT_STORE"] = str(folder / "store")
    subprocess.run([sys.executable, "-c", CHARTS_SCRIPT], check=True)
    command = [sys.executable, "-m", "experiments.bench_overhead", "--inside", str(folder), "--trials", str(trials)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "command": whole_command(folder, trials)}


if __name__ == "__main__":
    main()
