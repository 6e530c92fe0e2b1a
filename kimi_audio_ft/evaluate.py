"""``python -m kimi_audio_ft.evaluate``: a saved adapter, or the base alone, on ``data.eval_manifest``."""

from __future__ import annotations

from pathlib import Path

from kimi_audio_ft.cli import command
from kimi_audio_ft.config.train import EvaluateConfig
from kimi_audio_ft.trial import evaluate


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


if __name__ == "__main__":
    main()
