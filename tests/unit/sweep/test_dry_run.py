"""A dry run: its arithmetic of sweepers and of work side by side, and its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.cost.machines import MACHINES
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.sweep.dry_run.prediction import Further, Prediction, Predictor
from kimi_audio_ft.sweep.dry_run.run import further_of, lines
from kimi_audio_ft.sweep.dry_run.workload import Decoding, Workload


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


@pytest.mark.parametrize(("options", "told"), [({}, False), ({"executor": "slurm"}, True)])
def test_what_was_measured_here_is_not_taken_for_a_clusters(private_store: Path, options: dict, told: bool) -> None:
    work = Workload(4, 0, [], 0, 0, [], [], 0, 0.0, 0)
    prediction = Prediction(7200.0, 7000.0, 100.0, 0.0, 2, 8_000_000, 1_000_000, 500.0, None, together=64)
    for dry_run, measured in ((True, True), ("h100", False)):
        settings = LauncherConfig(dry_run=dry_run, **options)
        said = "\n".join(lines(work, prediction, MACHINES["h100"], settings, Further()))
        assert ("not a node of Slurm's" in said and "dry_run=h100 (a100" in said) == (told and measured)
        assert "about 64 utterances" in said


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
    small = replace(MACHINES["4090"], memory=1.2e9)  # CUDA's own take most of it
    for predictor.machine, at_most in ((MACHINES["h100"], 256), (small, 128), (MACHINES["laptop"], 8)):
        together = predictor.predict(work).together
        assert together is not None and at_most / 16 < together <= at_most
