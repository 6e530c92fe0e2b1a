"""``python -m kimi_audio_ft.merge`` between train and evaluate: equal transcripts before and after."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import SHORT, Workplace
from tests.standin import Standin
from tests.trials_json import hypotheses_of

MODEL = "model.dtype=float32"


@pytest.mark.slow
def test_evaluate_before_and_after(workplace: Workplace, standin: Standin) -> None:
    """The stand-in's weights and encoders are the embedded model's, so the workplace's codes fit it."""
    model = [*standin.overrides, MODEL]
    place: Path = workplace.folder

    def run(module: str, *arguments: str) -> str:
        return workplace.succeed(f"kimi_audio_ft.{module}", *arguments)

    run("train", *SHORT, *model, "optim.lr=0.01", "hydra.run.dir=trial", "lora.r=4")
    (adapter,) = workplace.products("adapter")
    data = ("data.eval_manifest=data/eval.tokens.jsonl", "decoding=greedy", "decoding.max_new_tokens=12")
    quiet = ("trainer.progress=false",)
    run("evaluate", *data, *quiet, *model, f"adapter={adapter}", "hydra.run.dir=before")
    run("evaluate", *data, *quiet, *model, "hydra.run.dir=base")
    for target in ("official", "vllm"):
        out = run("merge", f"adapter={adapter}", f"out=merged_{target}", f"target={target}", *model, "dtype=float32")
        assert "merged differs from base + adapter by 0.00%" in out
        tokenizer = f"model.speech_tokenizer={standin.speech_tokenizer}"
        merged = (f"model.path={place / f'merged_{target}'}", tokenizer, MODEL)
        run("evaluate", *data, *quiet, *merged, f"hydra.run.dir=after_{target}")
        assert hypotheses_of(place / f"after_{target}") == hypotheses_of(place / "before")
    assert hypotheses_of(place / "before") != hypotheses_of(place / "base")


def test_what_is_refused(workplace: Workplace) -> None:
    for arguments, parts in (
        (["out=x"], ["adapter: has no value"]),
        (["adapter=nowhere", "out=x"], ["adapter='nowhere'", "must be an adapter folder"]),
        (["adapter=nowhere", "out=x", "target=gguf"], ["target='gguf'", "official, vllm"]),
        (["adapter=nowhere", "out=x", "verify=maybe"], ["verify='maybe'", "auto, true, false"]),
        (["adapter=nowhere", "out=x", "shard_gb=0"], ["shard_gb=0.0", "greater than 0"]),
    ):
        done = workplace.run("kimi_audio_ft.merge", *arguments)
        assert done.code == 2 and all(part in done.err for part in parts), (arguments, done.err)
    assert not (workplace.folder / "x").exists()
