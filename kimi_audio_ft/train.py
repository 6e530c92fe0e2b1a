"""``python -m kimi_audio_ft.train``: one trial, or with ``-m`` a sweep; returns the CER to the sweeper."""

from __future__ import annotations

import logging
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.cli import command, is_users
from kimi_audio_ft.config.train import TrainConfig

if TYPE_CHECKING:
    from kimi_audio_ft.scores import TrialFacts
    from kimi_audio_ft.scoring import ScoringOptions
    from kimi_audio_ft.tracking import Tracker
    from kimi_audio_ft.transcripts import Transcripts
    from kimi_audio_ft.trial import Trial

log = logging.getLogger("kimi_audio_ft.train")  # __name__ is __main__ here


def record_failure(config: DictConfig, error: Exception) -> None:
    """Write ``failure.json`` into the trial's folder; in a sweep, which goes on, log the error at once."""
    from hydra.core.hydra_config import HydraConfig

    from kimi_audio_ft.scores import write_failure

    facts = trial_facts(OmegaConf.to_container(config, resolve=False))
    if is_sweep():
        log.error("%s: FAILED: %s", facts.name, error, exc_info=not is_users(error))
    write_failure(Path(HydraConfig.get().runtime.output_dir), facts, error)


@command("train", ("kimi_audio_ft.config.train", "TrainConfig"), on_failure=record_failure)
def main(config: TrainConfig) -> float:
    """Run the trial that Hydra composed."""
    from hydra.core.hydra_config import HydraConfig

    from kimi_audio_ft.engine.view import quiet_job_console
    from kimi_audio_ft.store.usage import using

    quiet_job_console()
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    group = str(Path(hydra.sweep.dir)) if is_sweep() else folder.name
    with using(Path(hydra.sweep.dir) if is_sweep() else folder):
        return run(config, folder, trial_facts(asdict(config)), group)


def is_sweep() -> bool:
    """Whether Hydra runs this trial as one of several."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


_NAMING = (
    *("lora", "optim", "decoding", "seed", "prompt=", "augment="),
    *("data.prompt=", "data.train_subset", "data.augment"),
)


def trial_facts(config: Any) -> TrialFacts:
    """Who the trial is that Hydra runs, given its nested config."""
    from hydra.core.hydra_config import HydraConfig

    from kimi_audio_ft.scores import TrialFacts
    from kimi_audio_ft.store.signature import flatten

    overrides = list(HydraConfig.get().overrides.task)
    repeat_alone = [*overrides, "hydra.mode=RUN"] if is_sweep() else overrides
    command_line = shlex.join(["python", "-m", "kimi_audio_ft.train", *repeat_alone])
    return TrialFacts(trial_name(overrides), command_line, flatten(config))


def trial_name(overrides: list[str]) -> str:
    """What makes the trial itself: its overrides of LoRA, optimizer, decoding, seed, prompt, subset, augmentation."""
    given = [override.lstrip("+") for override in overrides]
    return ",".join(override for override in given if override.startswith(_NAMING)) or "defaults"


def run(config: TrainConfig, folder: Path, facts: TrialFacts, group: str) -> float:
    """Fit or reuse, decode, score and record one trial; returns its CER."""
    from kimi_audio_ft.runtime.devices import refuse_launchers
    from kimi_audio_ft.runtime.libraries import quiet_libraries
    from kimi_audio_ft.tracking import make_tracker

    refuse_launchers()
    folder.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    tracker = make_tracker(config.logger, trial_name=facts.name, group=group, config=asdict(config), folder=folder)
    try:
        return _fit_decode_score(config, folder, facts, tracker)
    except Exception as error:
        tracker.fail(f"{type(error).__name__}: {error}")
        raise
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        tracker.fail("interrupted")
        raise KeyboardInterrupt from None


def _fit_decode_score(config: TrainConfig, folder: Path, facts: TrialFacts, tracker: Tracker) -> float:
    from kimi_audio_ft.engine import known
    from kimi_audio_ft.engine.work import BASE
    from kimi_audio_ft.files import write_jsonl
    from kimi_audio_ft.scores import utterance_rows, write_scores, write_utterances
    from kimi_audio_ft.scoring import read_options
    from kimi_audio_ft.transcripts import decode
    from kimi_audio_ft.trial import Trial

    (folder / "failure.json").unlink(missing_ok=True)
    options = read_options(config.scoring)
    trial = Trial(config)
    evaluation = trial.evaluation
    rows: list[dict[str, Any]] = []

    def on_row(row: dict[str, Any]) -> None:
        rows.append(row)
        metrics = {f"{row['split']}/loss": row["loss"]}
        if row["lr"] is not None:
            metrics["train/lr"] = row["lr"]
        tracker.log(metrics, row["step"])

    adapter = trial.adapter(on_row)
    log.info("%s: adapter %s %s", facts.name, adapter.signature, "reused" if adapter.reused else "fitted")
    write_jsonl(folder / "curves.jsonl", rows)
    progress = config.trainer.progress
    transcripts = decode(
        trial.base, evaluation, config.decoding, config.seed, (adapter.signature, adapter.folder), progress
    )
    trained = {key: adapter.facts[key] for key in _TRAINED} | {"train_reused": adapter.reused}
    scores = _scores(trial, facts, adapter.signature, transcripts, trained, options)
    utterances = utterance_rows(evaluation.references, transcripts.hypotheses, evaluation.surroundings, options)
    write_utterances(folder, utterances)
    if config.baseline:
        known.raise_if_failed(BASE)
        alone = decode(trial.base, evaluation, config.decoding, config.seed, None, progress)
        label = replace(facts, name="base (no adapter)")
        base = _scores(trial, label, "base", alone, dict.fromkeys(_TRAINED), options)
        write_scores(folder, "baseline.json", base)
        beside = f" (base alone {100 * base['cer']:.2f} %)"
    else:
        beside = ""
        (folder / "baseline.json").unlink(missing_ok=True)
    write_scores(folder, "scores.json", scores)
    tracker.finish({k: v for k, v in scores.items() if k not in ("params", "command")}, utterances)
    log.info("%s: CER %.2f %%%s; scores and transcripts in %s", facts.name, 100 * scores["cer"], beside, folder)
    return float(scores["cer"])


_TRAINED = (
    *("trainable_parameters", "train_seconds", "final_train_loss", "final_val_loss", "steps", "train_conversations"),
)


def _scores(
    trial: Trial,
    facts: TrialFacts,
    signature: str,
    transcripts: Transcripts,
    trained: dict[str, Any],
    options: ScoringOptions,
) -> dict[str, Any]:
    from kimi_audio_ft.scores import git_commit

    evaluation = trial.evaluation
    return {
        "trial": facts.name,
        **evaluation.scores(transcripts, options),
        "signature": signature,
        "transcript_signatures": transcripts.signatures,
        "params": facts.params,
        **trained,
        "decode_seconds": transcripts.seconds,
        "command": facts.command,
        "eval_manifest": evaluation.settings.eval_manifest,
        "eval_identity": evaluation.reference_identity,
        "git_commit": git_commit(),
        "model": trial.config.model.path,
    }


if __name__ == "__main__":
    main()
