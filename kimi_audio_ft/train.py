"""``python -m kimi_audio_ft.train``: one trial, or with ``-m`` a sweep, whose sweeper is given the rate that ranks."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig

from kimi_audio_ft.cli import command, is_sweep, is_users
from kimi_audio_ft.config.command_line import program
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.scoring.trial_scores import TrialFacts, write_failure
from kimi_audio_ft.store.signature import flatten
from kimi_audio_ft.store.usage import using
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.trial import run

log = logging.getLogger("kimi_audio_ft.train")  # __name__ is __main__ here

# A trial's overrides that belong to its name.
_NAMING = (
    *("lora", "optim", "decoding", "seed", "prompt=", "prompt.", "augment="),
    *("data.prompt=", "data.train_subset", "data.augment"),
)
# Hydra's own options that say where and how trials are run, which repeating one of them alone leaves to the defaults.
_OF_LAUNCHES = (
    *("hydra.mode", "hydra.run", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher"),
    *("hydra.callbacks", "hydra.output_subdir"),
)


def record_failure(config: dict[str, Any], error: Exception) -> None:
    """Write ``failure.json`` into the trial's folder; a sweep continues, so there the error is logged at once."""
    facts = trial_facts(config)
    if is_sweep():
        log.error("%s: FAILED: %s", facts.name, error, exc_info=not is_users(error))
    write_failure(Path(HydraConfig.get().runtime.output_dir), facts, error)


@command("train", on_failure=record_failure, endings=SweepReport)
def main(config: TrainConfig) -> float:
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    group = str(Path(hydra.sweep.dir)) if is_sweep() else None
    with using(Path(hydra.sweep.dir) if is_sweep() else folder):
        return run(config, folder, trial_facts(asdict(config)), group)


def trial_facts(config: dict[str, Any]) -> TrialFacts:
    """Label, command and flat config of the trial that Hydra runs, given its nested config."""
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    further = [one for one in hydra.overrides.hydra if not one.lstrip("+~").startswith(_OF_LAUNCHES)]
    mode = ["hydra.mode=RUN"] if is_sweep() else []
    command_line = shlex.join([*program("train", cast(Mapping[str, Any], hydra)), *overrides, *further, *mode])
    return TrialFacts(trial_name(overrides), command_line, flatten(config))


def trial_name(overrides: list[str]) -> str:
    """A trial's name: its overrides of LoRA, optimizer, decoding, seed, prompt, subset and augmentation."""
    given = [override.lstrip("+") for override in overrides]
    return ",".join(override for override in given if override.startswith(_NAMING)) or "defaults"


if __name__ == "__main__":
    main()
