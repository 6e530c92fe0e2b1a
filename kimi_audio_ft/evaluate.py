"""``python -m kimi_audio_ft.evaluate``: a saved adapter, or the base alone, on ``data.eval_manifest``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from kimi_audio_ft.base import Base, find_adapter, require_base
from kimi_audio_ft.cli import command, is_sweep
from kimi_audio_ft.config.canonical import decoding_fields
from kimi_audio_ft.config.train import EvaluateConfig
from kimi_audio_ft.decoding.kept import vllm_kept
from kimi_audio_ft.decoding.transcripts import EvaluationSet, decode
from kimi_audio_ft.decoding.vllm_process import require_vllm
from kimi_audio_ft.files import write_json
from kimi_audio_ft.inputs import longer_than_trained, only_knows_the_demo
from kimi_audio_ft.runtime.devices import refuse_launchers
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.scoring import read_options
from kimi_audio_ft.store.signature import flatten
from kimi_audio_ft.store.usage import using
from kimi_audio_ft.tracking import make_tracker
from kimi_audio_ft.trial import ranked_by, ranking_rate, record, scores_of, write_utterances


@command("evaluate")
def main(config: EvaluateConfig) -> float:
    """Evaluate what Hydra composed; prints the scores and their folder."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    several = Path(hydra.sweep.dir) if is_sweep() else None
    with using(several or folder):
        scores = evaluate(config, folder, group=str(several or "evaluate"))
    print(
        f"CER {scores['cer']:.2%} (normalised {scores['normalised']['cer']:.2%}), MER {scores['mer']:.2%}, "
        f"exact match {scores['exact_match']:.2%} over {scores['num_references']} references"
    )
    for name, found in scores.get("sets", {}).items():
        print(f"{name}: CER {found['cer']:.2%} over {found['num_references']} references")
    print(f"scores and transcripts: {folder}")
    if config.losses:
        print(f"references that look wrong: python -m multirun_analysis.labels {several or folder}")
    return ranking_rate(scores, config.scoring.rank_by)


def evaluate(config: EvaluateConfig, folder: Path, group: str = "evaluate") -> dict[str, Any]:
    """Decode and score a saved adapter or the base; writes ``scores.json`` and ``utterances.jsonl`` into ``folder``.

    ``group`` names what the evaluation belongs to, for W&B.
    """
    refuse_launchers()
    quiet_libraries()
    options = read_options(config.scoring)
    require_vllm(config.decoding)
    base = Base(config.model, config.data.features, config.trainer.accelerator, config.trainer.threads)
    if told := only_knows_the_demo(config.model, config.data):
        print(told)
    evaluation = EvaluationSet(base, config.data, config.prompt)
    if told := longer_than_trained(evaluation):
        print(told)
    adapter = find_adapter(config.adapter)
    if adapter:
        require_base(base, adapter[1], config.any_base)
    made_by = adapter[0] if adapter else "base"
    name = f"evaluate {made_by}"
    with vllm_kept():
        transcripts = decode(evaluation, config.decoding, config.seed, adapter, config.trainer)
    losses = None
    if config.losses:
        from kimi_audio_ft.training.utterance_losses import evaluation_losses

        found = evaluation_losses(evaluation, adapter, config.trainer.progress)
        losses = {name: loss.fields() for name, loss in found.items()}
    about = {"params": flatten({"decoding": decoding_fields(config.decoding)})}
    about |= ranked_by(config.scoring)
    scores = scores_of(base, evaluation, transcripts, options, name, made_by, about)
    utterances = write_utterances(folder, evaluation.utterances(transcripts, options), losses)
    write_json(folder / "scores.json", scores)
    tracker = make_tracker(
        config.logger, trial_name=name, group=group, config=asdict(config), folder=folder, job_type="evaluate"
    )
    record(tracker, {key: value for key, value in scores.items() if key not in about}, utterances)
    return scores


if __name__ == "__main__":
    main()
