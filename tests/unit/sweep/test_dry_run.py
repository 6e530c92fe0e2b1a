"""A dry run: its arithmetic of sweepers and of work side by side, and its words."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.launcher import LauncherConfig, RayConfig
from kimi_audio_ft.config.train import TrainConfig, TrainerConfig, VllmConfig
from kimi_audio_ft.cost.counted import Counts
from kimi_audio_ft.cost.machines import MACHINES
from kimi_audio_ft.cost.memory import CONTEXT_BYTES, SAFE, TrainingMemory
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.features.encode import online_bytes
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.sweep.dry_run.prediction import Further, Prediction, Predictor
from kimi_audio_ft.sweep.dry_run.run import further_of, lines, slots_of
from kimi_audio_ft.sweep.dry_run.workload import Decoding, Training, Workload
from kimi_audio_ft.sweep.plan import Unit
from kimi_audio_ft.trial import Trial


@pytest.mark.parametrize(("peak", "told"), [(8_000_000_000, "about 2 h"), (None, "unknown: an adapter does not fit")])
def test_a_time_is_told_only_where_every_adapter_fits(private_store: Path, peak: int | None, told: str) -> None:
    work = Workload(4, 0, [], 0, 0, [], [], 0, 0.0, 0)
    prediction = Prediction(7200.0, 7000.0, 100.0, 0.0, 2, peak, 1_000_000, 500.0, None)
    settings = LauncherConfig(dry_run="4090", hours=1.0)
    said = lines(work, prediction, MACHINES["4090"], settings, Further())
    (time,) = [line for line in said if line.startswith("  time ")]
    assert told in time
    fits = peak is not None
    for word in ("device-hours", "positions a second", "more than hydra.launcher.hours=1"):
        assert any(word in line for line in said) == fits, word


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, False),
        ({"executor": "slurm"}, True),
        ({"executor": "ray"}, False),
        ({"executor": "ray", "ray": RayConfig(address="auto")}, True),
    ],
)
def test_what_was_measured_here_is_not_taken_for_a_clusters(private_store: Path, options: dict, told: bool) -> None:
    work = Workload(4, 0, [], 0, 0, [], [Decoding(TrainConfig(), 1, 64, 50.0, 10.0)], 0, 0.0, 0)
    prediction = Prediction(7200.0, 7000.0, 100.0, 0.0, 2, 8_000_000, 1_000_000, 500.0, together=64)
    nothing = replace(work, decodings=[])
    for dry_run, made, measured in ((True, work, True), ("h100", work, False), (True, nothing, False)):
        settings = LauncherConfig(dry_run=dry_run, **options)
        said = "\n".join(lines(made, prediction, MACHINES["h100"], settings, Further()))
        other = f"not a node of {settings.executor.capitalize()}'s" in said
        assert other == ("dry_run=h100 (a100, 4090, laptop)" in said) == (told and measured)
        assert ("measured now" in said) == measured
        assert "about 64 utterances" in said


def test_a_ray_that_is_started_here_holds_what_this_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    units = [Unit("a1", [TrainConfig(trainer=TrainerConfig(accelerator="cpu"))])]

    def slots(parallel: Any = "auto", dry_run: Any = True, **ray: Any) -> int:
        settings = LauncherConfig(executor="ray", parallel=parallel, dry_run=dry_run, ray=RayConfig(**ray))
        return slots_of(settings, units)

    assert (slots(), slots(num_cpus_per_pack=3), slots(3), slots(16)) == (8, 2, 3, 8)
    assert (slots(address="auto"), slots(5, address="auto"), slots(dry_run="h100")) == (1, 5, 1)


def test_rungs_in_steps_are_parts_of_a_training() -> None:
    halving = {"rungs": [20, 40], "reduction_factor": 2}
    assert further_of(halving, 80).part == pytest.approx(0.25 + 0.25 / 2 + 0.5 / 4)
    assert further_of(halving | {"rungs": [0.25, 0.5]}, 80) == further_of(halving, 80)
    assert further_of(halving, 0) == Further(), "nothing is trained"
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.rungs.*30 steps only"):
        further_of(halving, 30)


def test_decodings_of_a_sweep_that_trains_nothing_share_the_slots_and_fill_memory(
    trial_config: Callable[..., TrainConfig],
) -> None:
    decodings = [Decoding(trial_config(), 1, 64, 50.0, 10.0)] * 4
    work = Workload(4, 0, [], 4, 0, [], decodings, 0, 0.0, 0)
    predictor = Predictor(MACHINES["h100"], 1, LauncherConfig())
    one = predictor.predict(work)
    predictor.slots = 2
    two = predictor.predict(work)
    assert one.seconds - two.seconds == pytest.approx(one.decoding / 2) and one.decoding == two.decoding > 0
    assert one.together is None
    filled = trial_config(decoding={"batch_size": "auto", "text_temperature": 0.7})
    work = replace(work, decodings=[Decoding(filled, 4, 4096, 50.0, 10.0)])
    plain, fused = (
        predictor.predict(replace(work, decodings=[Decoding(one, 4, 4096, 50.0, 10.0)])).decoding
        for one in (trial_config(model={"dtype": "bfloat16", "kernels": kernels}) for kernels in ("plain", "auto"))
    )
    assert plain > fused
    small = replace(MACHINES["4090"], memory=1.2e9)  # CUDA's own take most of it
    for predictor.machine, at_most in ((MACHINES["h100"], 256), (small, 128), (MACHINES["laptop"], 8)):
        together = predictor.predict(work).together
        assert together is not None and at_most / 16 < together <= at_most


def test_vllm_has_no_batches_to_tell_of(trial_config: Callable[..., TrainConfig]) -> None:
    setting = {"batch_size": "auto", "engine": "vllm", "vllm": VllmConfig(python="vllm_env/bin/python")}
    work = Workload(1, 0, [], 0, 0, [], [Decoding(trial_config(decoding=setting), 1, 64, 50.0, 10.0)], 0, 0.0, 0)
    told = Predictor(MACHINES["h100"], 1, LauncherConfig()).predict(work)
    assert told.together is None and told.decoding > 0


def test_memory_is_that_of_a_rank_with_the_encoder_that_hears_beside_it(
    trial_config: Callable[..., TrainConfig],
) -> None:
    def told(config: TrainConfig, ranks: int = 1, memory: float = 80e9) -> Prediction:
        training = Training(config, 1, 10, ranks * 100.0, ranks * 20.0, 0)
        machine = replace(MACHINES["h100"], memory=memory)
        return Predictor(machine, 1, LauncherConfig()).predict(Workload(1, 0, [], 0, 0, [training], [], 0, 0.0, 0))

    def peak(*args: Any) -> int:
        found = told(*args).peak
        assert found is not None
        return found

    config, ranks = trial_config(), 8
    files = Trial(config).base.files
    beside = online_bytes(files, "float32", "online")
    assert peak(trial_config(data={"features": "online"})) - peak(config) == beside > 0
    counts = Counts(read_config(files.root), config.lora, torch.float32)
    shards = trial_config(trainer={"strategy": "fsdp", "devices": ranks})
    saved = counts.base_bytes - counts.bytes_on(ranks)
    assert peak(config) - peak(shards, ranks) == saved > 0
    one, several = told(config), told(shards, ranks)
    assert one.training == pytest.approx(several.training) and several.hours == pytest.approx(ranks * one.hours)
    room = (CONTEXT_BYTES + TrainingMemory.of(counts).fixed - saved / 2) / SAFE
    assert told(config, memory=room).peak is None and told(shards, ranks, room).peak is not None
