"""Processor time of a training step under the presets of conf/lora, there and back, on a pretokenized manifest.

    python -m experiments.bench_presets data/train.tokens.jsonl

Every figure is the difference of two trainings of unequal length, so that loading and validation cancel out.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from kimi_audio_ft.config.train import DataConfig, LoggerConfig, LoraConfig, ModelConfig, TrainConfig, TrainerConfig
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.trial import Trial

WAYS = (
    ("decoder", "cached"),
    ("decoder_and_adaptor", "cached"),
    ("decoder", "online"),
    ("decoder_and_adaptor", "online"),
    ("decoder_adaptor_whisper", "online"),
)
SHORT, LONG, TURNS = 2, 5, 3


def config_of(manifest: str, preset: str, features: str, steps: int) -> TrainConfig:
    seldom = 10**6
    return TrainConfig(
        data=DataConfig(train_manifest=manifest, eval_manifest=manifest, features=features, batch_size=4),
        model=ModelConfig(dtype="float32"),
        lora=LoraConfig(target_modules=preset),
        trainer=TrainerConfig(
            max_steps=steps, max_epochs=seldom, accumulate=1, val_every=seldom, accelerator="cpu", threads=1,
            progress=False,
        ),
        logger=LoggerConfig(kind="none"),
    )  # fmt: skip


def seconds_of(config: TrainConfig) -> tuple[float, int]:
    """Processor seconds of a training, and its number of trained parameters."""
    trial = Trial(config)
    trial.data.setup()
    trial.base.load()
    with tempfile.TemporaryDirectory() as place:
        start = time.process_time()
        facts = trial.fit(Path(place) / "adapter", Path(place) / "work", None)
        return time.process_time() - start, facts["trainable_parameters"]


def main(manifest: str) -> None:
    quiet_libraries()
    found: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    trained: dict[tuple[str, str], int] = {}
    for way in WAYS:
        _, trained[way] = seconds_of(config_of(manifest, *way, 1))  # what only the first training does
    for turn in range(TURNS):
        for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
            short, long = (seconds_of(config_of(manifest, *way, steps))[0] for steps in (SHORT, LONG))
            found[way].append((long - short) / (LONG - SHORT))
    print("| lora= | data.features | trained parameters | processor seconds of a step: median | least | most |")
    print("|---|---|---|---|---|---|")
    for (preset, features), seconds in found.items():
        figures = " | ".join(f"{value:.2f}" for value in (statistics.median(seconds), min(seconds), max(seconds)))
        print(f"| {preset} | {features} | {trained[preset, features]:,} | {figures} |")


if __name__ == "__main__":
    main(sys.argv[1])
