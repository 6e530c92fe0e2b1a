"""``python -m kimi_audio_ft.merge`` between train and evaluate: equal transcripts before and after."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import SHORT, Workplace
from tests.standin import Standin
from tests.trials_json import hypotheses_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
MODEL = "model.dtype=float32"


@pytest.mark.slow
def test_evaluate_before_and_after(workplace: Workplace, standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
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
    for target in ("official", "qwen2"):
        out = run("merge", f"adapter={adapter}", f"out=merged_{target}", f"target={target}", *model, "dtype=float32")
        assert "merged differs from base + adapter by 0.00%" in out
    merged = (f"model.path={place / 'merged_official'}", f"model.speech_tokenizer={standin.speech_tokenizer}", MODEL)
    run("evaluate", *data, *quiet, *merged, "hydra.run.dir=after")
    expected = hypotheses_of(place / "before")
    assert hypotheses_of(place / "after") == expected
    with monkeypatch.context() as patch:
        patch.setenv("KIMI_AUDIO_FT_STORE", str(workplace.store))
        assert answers_of_qwen2(place / "merged_qwen2", place / "data", standin) == expected
    assert expected != hypotheses_of(place / "base")


def answers_of_qwen2(folder: Path, data: Path, standin: Standin) -> dict[str, str]:
    """Greedy texts of at most 12 tokens by transformers' own code: the example of docs/recogniser.md."""
    [example] = re.findall(r"```python\n(.*?)```", (DOCS / "recogniser.md").read_text(encoding="utf-8"), re.S)
    front_end = f'"{folder}/front_end", speech_tokenizer="{standin.speech_tokenizer}"'
    names = {'"my/qwen2/front_end"': front_end, "my/qwen2": str(folder), "my/data": str(data), "256": "12"}
    for name, own in names.items():
        assert name in example
        example = example.replace(name, own)
    found: dict[str, Any] = {}
    exec(example, found)
    texts: dict[str, str] = found["texts"]
    return texts


def test_what_is_refused(workplace: Workplace) -> None:
    for arguments, parts in (
        (["out=x"], ["adapter: has no value"]),
        (["adapter=nowhere", "out=x"], ["adapter='nowhere'", "must be an adapter folder"]),
        (["adapter=nowhere", "out=x", "target=gguf"], ["target='gguf'", "official, qwen2"]),
        (["adapter=nowhere", "out=x", "target=vllm"], ["target='vllm'", "another function", "Use target=qwen2"]),
        (["adapter=null", "out=x"], ["adapter=None", "only target=qwen2"]),
        (["adapter=nowhere", "out=x", "verify=maybe"], ["verify='maybe'", "auto, true, false"]),
        (["adapter=nowhere", "out=x", "shard_gb=0"], ["shard_gb=0.0", "greater than 0"]),
    ):
        done = workplace.run("kimi_audio_ft.merge", *arguments)
        assert done.code == 2 and all(part in done.err for part in parts), (arguments, done.err)
    assert not (workplace.folder / "x").exists()
