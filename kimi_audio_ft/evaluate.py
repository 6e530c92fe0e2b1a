"""``python -m kimi_audio_ft.evaluate``: a saved adapter, or the base alone, on ``data.eval_manifest``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from kimi_audio_ft.cli import command
from kimi_audio_ft.config.train import EvaluateConfig


@command("evaluate", ("kimi_audio_ft.config.train", "EvaluateConfig"))
def main(config: EvaluateConfig) -> float:
    """Evaluate what Hydra composed; prints the scores and where they lie."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    several = Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None
    scores = evaluate(config, folder, group=str(several or "evaluate"))
    print(
        f"CER {scores['cer']:.2%} (normalised {scores['normalised']['cer']:.2%}), MER {scores['mer']:.2%}, "
        f"exact match {scores['exact_match']:.2%} over {scores['num_references']} references\n"
        f"scores and transcripts: {folder}"
    )
    if config.losses:
        print(f"references that look wrong: python -m multirun_analysis.labels {several or folder}")
    return float(scores["cer"])


def evaluate(config: EvaluateConfig, folder: Path, group: str = "evaluate") -> dict[str, Any]:
    """Decode and score; writes ``scores.json`` and ``utterances.jsonl`` into ``folder``.

    ``group`` names what the evaluation belongs to, for W&B.
    """
    from kimi_audio_ft.base_model import Base
    from kimi_audio_ft.runtime.devices import refuse_launchers
    from kimi_audio_ft.runtime.libraries import quiet_libraries
    from kimi_audio_ft.scores import git_commit, score_repeats, utterance_rows, write_scores, write_utterances
    from kimi_audio_ft.scoring import read_options
    from kimi_audio_ft.store.signature import flatten
    from kimi_audio_ft.tracking import make_tracker
    from kimi_audio_ft.transcripts import EvaluationSet, decode

    refuse_launchers()
    quiet_libraries()
    options = read_options(config.scoring)
    base = Base(config.model, config.data.features, config.trainer.accelerator, config.trainer.threads)
    evaluation = EvaluationSet(base, config.data)
    adapter = find_adapter(config.adapter)
    name = f"evaluate {adapter[0] if adapter else 'base'}"
    transcripts = decode(base, evaluation, config.decoding, config.seed, adapter, config.trainer.progress)
    around, hypotheses = evaluation.surroundings, transcripts.hypotheses
    utterances = utterance_rows(evaluation.references, hypotheses, around, options)
    if config.losses:
        from kimi_audio_ft.training.utterance_losses import evaluation_losses

        losses = evaluation_losses(base, evaluation, adapter, config.trainer.progress)
        utterances = [{**row, "loss": losses[row["id"]]} for row in utterances]
    flat = flatten(asdict(config))
    scores = {
        "trial": name,
        **score_repeats(evaluation.references, hypotheses, around.recordings, options),
        "signature": adapter[0] if adapter else "base",
        "transcript_signatures": transcripts.signatures,
        "params": {key: value for key, value in flat.items() if key.startswith("decoding.")},
        "decode_seconds": transcripts.seconds,
        "eval_manifest": config.data.eval_manifest,
        "eval_identity": evaluation.reference_identity,
        "git_commit": git_commit(),
        "model": config.model.path,
    }
    write_utterances(folder, utterances)
    write_scores(folder, "scores.json", scores)
    tracker = make_tracker(
        config.logger, trial_name=name, group=group, config=asdict(config), folder=folder, job_type="evaluate"
    )
    tracker.finish({key: value for key, value in scores.items() if key != "params"}, utterances)
    return scores


def find_adapter(adapter: str | None) -> tuple[str, Path] | None:
    """Identity and folder of an adapter given as a folder or as a signature in the store."""
    from kimi_audio_ft import store
    from kimi_audio_ft.errors import ConfigError, DataError
    from kimi_audio_ft.store.digests import folder_digest

    if adapter is None:
        return None
    folder = Path(adapter).expanduser()
    place = store.product_path("adapter", folder.name)
    if (place / store.META).is_file() and (adapter == folder.name or folder.resolve() == place):
        if store.find("adapter", folder.name) is None:
            remedy = "Train it again by the command that made it, which sets this one aside"
            raise DataError(place, f"is corrupted ({store.damage(place)})", remedy)
        return folder.name, place
    if not folder.is_dir():
        rule = "must be an adapter folder in PEFT's format, or a signature from `python -m kimi_audio_ft.store ls`"
        raise ConfigError("adapter", adapter, rule, "Use adapter=null for the base alone")
    return folder_digest(folder, ("adapter_*",)), folder


if __name__ == "__main__":
    main()
