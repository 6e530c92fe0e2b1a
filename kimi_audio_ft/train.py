"""``python -m kimi_audio_ft.train``: one trial, or with ``-m`` a sweep; returns the CER to the sweeper."""

from __future__ import annotations

import logging
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_audio_ft.cli import command
from kimi_audio_ft.schema import TrainConfig

if TYPE_CHECKING:
    from kimi_audio_ft.scores import TrialFacts
    from kimi_audio_ft.tracking import Tracker
    from kimi_audio_ft.trial import Trial

log = logging.getLogger(__name__)


@command("train", ("kimi_audio_ft.schema", "TrainConfig"))
def main(config: TrainConfig) -> float:
    """Run the trial that Hydra composed."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    sweep = hydra.mode == RunMode.MULTIRUN
    folder = Path(hydra.runtime.output_dir)
    repeat_alone = [*overrides, "hydra.mode=RUN"] if sweep else overrides
    return run(
        config,
        folder=folder,
        name=trial_name(overrides),
        group=str(Path(hydra.sweep.dir)) if sweep else folder.name,
        command_line=shlex.join(["python", "-m", "kimi_audio_ft.train", *repeat_alone]),
    )


def trial_name(overrides: list[str]) -> str:
    """What makes the trial itself: its LoRA, optimizer, decoding and seed overrides."""
    kept = [o.lstrip("+") for o in overrides if o.lstrip("+").startswith(("lora", "optim", "decoding", "seed"))]
    return ",".join(kept) or "defaults"


def run(config: TrainConfig, folder: Path, name: str, group: str, command_line: str) -> float:
    """Fit or reuse, decode, score and record one trial; returns its CER.

    Whatever goes wrong is written to ``failure.json`` in the trial's folder before it is raised.
    """
    from kimi_audio_ft.quiet import quiet_libraries
    from kimi_audio_ft.scores import TrialFacts, write_failure
    from kimi_audio_ft.signature import flatten
    from kimi_audio_ft.threads import limit_threads
    from kimi_audio_ft.tracking import make_tracker

    facts = TrialFacts(name, command_line, flatten(asdict(config)))
    folder.mkdir(parents=True, exist_ok=True)
    limit_threads(config.trainer.threads)
    quiet_libraries()
    tracker = make_tracker(config.logger, trial_name=name, group=group, config=asdict(config), folder=folder)
    try:
        return _fit_decode_score(config, folder, facts, tracker)
    except BaseException as error:
        write_failure(folder, facts, error)
        tracker.fail(f"{type(error).__name__}: {error}")
        raise


def _fit_decode_score(config: TrainConfig, folder: Path, facts: TrialFacts, tracker: Tracker) -> float:
    from kimi_audio_ft.scores import utterance_rows, write_scores, write_utterances
    from kimi_audio_ft.store import write_jsonl
    from kimi_audio_ft.trial import Trial, decode

    (folder / "failure.json").unlink(missing_ok=True)
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
    scores = _scores(trial, facts, adapter.signature, transcripts, trained)
    utterances = utterance_rows(evaluation.references, transcripts.hypotheses, evaluation.audio)
    write_utterances(folder, utterances)
    if config.baseline:
        alone = decode(trial.base, evaluation, config.decoding, config.seed, None, progress)
        label = replace(facts, name="base (no adapter)")
        write_scores(folder, "baseline.json", _scores(trial, label, "base", alone, dict.fromkeys(_TRAINED)))
    else:
        (folder / "baseline.json").unlink(missing_ok=True)
    write_scores(folder, "scores.json", scores)
    tracker.finish({k: v for k, v in scores.items() if k not in ("params", "command")}, utterances)
    log.info("%s: CER %.2f %%", facts.name, 100 * scores["cer"])
    return float(scores["cer"])


_TRAINED = ("trainable_parameters", "train_seconds", "final_train_loss", "final_val_loss", "steps")


def _scores(
    trial: Trial, facts: TrialFacts, signature: str, transcripts: Any, trained: dict[str, Any]
) -> dict[str, Any]:
    from kimi_audio_ft.scores import git_commit, score_repeats

    evaluation = trial.evaluation
    return {
        "trial": facts.name,
        **score_repeats(evaluation.references, transcripts.hypotheses),
        "signature": signature,
        "transcript_signatures": transcripts.signatures,
        "params": facts.params,
        **trained,
        "decode_seconds": transcripts.seconds,
        "command": facts.command,
        "eval_manifest": evaluation.settings.eval_manifest,
        "eval_identity": evaluation.identity,
        "git_commit": git_commit(),
        "model": trial.config.model.path,
    }


if __name__ == "__main__":
    main()
