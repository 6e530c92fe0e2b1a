"""A sweep's trials combined: the mean adapter is one as any other, and goes to a plain Qwen2 by ``export_adapter``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.lora.adapter import read_adapter
from tests.consensus import consensus
from tests.integration.conftest import Workplace
from tests.trials_json import hypotheses_of, scores_of


def of_other_base(product: Path) -> str:
    return json.dumps(json.loads(product.read_text()) | {"base": "another"})


@pytest.mark.slow
def test_trials_and_adapters_of_a_sweep(first: Path, place: Workplace) -> None:
    """Trials 0 and 1 share an adapter of rank 2, trial 3 has one of rank 4; 1 and 3 were sampled once."""
    said = place.succeed("kimi_audio_ft.combine", "sweep=first", "trials=[0,1,3]", "out=combined")
    record = json.loads((place.folder / "combined" / "combinations.json").read_text())
    # Decoded by the launcher of the sweep, as its trials were.
    assert "decoding for combinations: data/eval.tokens.jsonl" in said
    task = json.loads(max(first.glob("packs/*/task-0.json")).read_text())
    assert [unit["adapter"].endswith("mean/adapter") for unit in task["units"]] == [True]
    rows = {row["name"]: row for row in record["combinations"]}
    assert rows.keys() == {"trials", "mean"} and rows["trials"]["decodings"] == 3 and rows["mean"]["decodings"] == 1
    heard = [hypotheses_of(first / name) for name in rows["trials"]["trials"]]
    expected = {key: consensus([one[key] for one in heard]) for key in heard[0]}
    assert hypotheses_of(place.folder / "combined" / "trials") == expected
    assert rows["mean"]["rank"] == 6 and rows["mean"]["kept"] == 1 and "combined/mean/adapter" in said

    sampled = record["best"]["trial"] != "0"
    decoding = (f"decoding.text_temperature={0.7 if sampled else 0.0}", "decoding.max_new_tokens=8")
    data = ("data.eval_manifest=data/eval.tokens.jsonl", "trainer.progress=false", "logger=none")
    made = place.products("transcript")
    adapter = "adapter=combined/mean/adapter"
    place.succeed("kimi_audio_ft.evaluate", adapter, *data, *decoding, "hydra.run.dir=mean")
    assert place.products("transcript") == made  # decoded once, by whomever
    assert scores_of(place.folder / "mean")["cer"] == pytest.approx(rows["mean"]["rate"])

    place.succeed("kimi_audio_ft.export_adapter", adapter, "out=exported")
    prompt = read_jsonl(place.folder / "data" / "train.jsonl")[0]["conversation"][0]["content"]
    for made_of in ("combined/mean/adapter", "exported"):
        assert json.loads((place.folder / made_of / "product.json").read_text())["prompt"] == prompt
    config, tensors = read_adapter(place.folder / "exported")
    assert config.r == 6 and tensors.keys() == read_adapter(place.folder / "combined" / "mean" / "adapter")[1].keys()
    said = place.succeed("kimi_audio_ft.merge", adapter, "out=merged", "dtype=float32", "model.dtype=float32")
    assert "merged differs from base + adapter by 0.00%" in said
    assert json.loads((place.folder / "merged" / "merge.json").read_text())["prompt"] == prompt
    again = place.succeed("kimi_audio_ft.merge", adapter, "out=merged", "dtype=float32", "model.dtype=float32")
    assert "holds this merge already" in again

    said = place.succeed("kimi_audio_ft.combine", "sweep=first", "trials=[3]", "samples=3")
    assert "python -m multirun_analysis first" in said
    record = json.loads((first / "combinations" / "combinations.json").read_text())
    assert [(row["name"], row["decodings"]) for row in record["combinations"]] == [("samples-3-at-0.6", 3)]
    made = place.products("transcript")
    sampled_so = ("decoding.text_temperature=0.6", "decoding.repeats=3", "decoding.max_new_tokens=8")
    signature = f"adapter={scores_of(first / '3')['signature']}"
    place.succeed("kimi_audio_ft.evaluate", signature, *data, *sampled_so, "hydra.run.dir=samples")
    assert place.products("transcript") == made
    texts: dict[str, list[str]] = {}
    for row in read_jsonl(place.folder / "samples" / "utterances.jsonl"):
        texts.setdefault(row["id"], []).append(row["hypothesis"])
    assert hypotheses_of(first / "combinations" / "samples-3-at-0.6") == {key: consensus(texts[key]) for key in texts}

    config_of = first / "3" / ".hydra" / "config.yaml"
    of_adapter = place.store / "adapter" / scores_of(first / "3")["signature"] / "product.json"
    evaluates_other = config_of.read_text().replace("data/eval.tokens.jsonl", "data/train.tokens.jsonl")
    for path, edited, options, problem in (
        (config_of, evaluates_other, ("trials=[3]", "samples=3"), "has changed since the sweep evaluated it"),
        (of_adapter, of_other_base(of_adapter), ("trials=[0,3]",), "its adapter is of another base than that of trial"),
    ):
        before = path.read_text()
        path.write_text(edited)
        done = place.run("kimi_audio_ft.combine", "sweep=first", *options, "out=refused")
        path.write_text(before)
        assert done.code == 2 and problem in done.err, done.err
        assert not (place.folder / "refused").exists()
    done = place.run("kimi_audio_ft.combine", "sweep=first", "trials=[7]")
    assert done.code == 2 and "7 is no finished trial of this sweep" in done.err
