"""A sweep over the mixture of two training manifests, scored on two evaluation sets by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kimi_audio_ft.files import read_jsonl
from tests.integration.conftest import Workplace
from tests.trials_json import scores_of

pytestmark = pytest.mark.slow

QUIET = ("trainer.max_steps=3", "decoding.max_new_tokens=8", "trainer.progress=false", "trainer.threads=0")


@pytest.fixture(scope="module")
def data(place: Workplace) -> Path:
    """Both manifests of the workplace in two parts."""
    for name in ("train", "eval"):
        lines = (place.folder / f"data/{name}.tokens.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        for number, part in enumerate((lines[:2], lines[2:])):
            (place.folder / f"data/{name}{number}.tokens.jsonl").write_text("".join(part), encoding="utf-8")
    return place.folder / "data"


def test_a_sweep_over_weights_reports_every_set(place: Workplace, data: Path) -> None:
    folder = place.folder / "mixed"
    command = (
        *("kimi_audio_ft.train", "-m", *QUIET, "logger=none", "hydra.sweep.dir=mixed", "lora.r=2"),
        "data.train_manifest=[data/train0.tokens.jsonl,data/train1.tokens.jsonl]",
        "data.eval_manifest={short:data/eval0.tokens.jsonl,long:data/eval1.tokens.jsonl}",
        "data.train_weights=[1,1],[1,3],null",
    )
    place.succeed(*command)
    scores = [scores_of(folder / number) for number in "012"]
    assert scores[0]["signature"] == scores[2]["signature"] != scores[1]["signature"]
    rows = read_jsonl(folder / "0" / "utterances.jsonl")
    counts = {name: sum(row["set"] == name for row in rows) for name in ("short", "long")}
    assert counts == {name: scores[0]["sets"][name]["num_references"] for name in counts} and counts["short"] == 2
    for name in counts:
        own = [row for row in rows if row["set"] == name]
        rate = sum(row["edits"] for row in own) / sum(row["chars"] for row in own)
        assert scores[0]["sets"][name]["cer"] == pytest.approx(rate)
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["sets.long.cer"]) for row in table[:3]] == [one["sets"]["long"]["cer"] for one in scores]
    assert table[3]["kind"] == "baseline" and table[3]["sets.short.wer"]
    trials = json.loads((folder / "trials.json").read_text(encoding="utf-8"))["trials"]
    assert trials[1]["sets"] == scores[1]["sets"] and trials[1]["params"] == scores[1]["params"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="sets"' in page and ">short<" in page and "[1, 3]" in page
    facts = json.loads((place.store / "adapter" / scores[1]["signature"] / "data.json").read_text(encoding="utf-8"))
    per_epoch = {Path(one["manifest"]).name: one["per_epoch"] / one["conversations"] for one in facts["manifests"]}
    assert per_epoch == {"train0.tokens.jsonl": 1, "train1.tokens.jsonl": 3}
    said = place.succeed(
        *("kimi_audio_ft.evaluate", f"adapter={scores[1]['signature']}", *QUIET[1:], "hydra.run.dir=again"),
        "data.eval_manifest=[data/eval0.tokens.jsonl,data/eval1.tokens.jsonl]",
    )
    assert f"eval1: CER {scores[1]['sets']['long']['cer']:.2%} over {counts['long']} references" in said
    again = scores_of(place.folder / "again")
    assert again["cer"] == scores[1]["cer"] and again["eval_identity"] == scores[1]["eval_identity"]


def test_training_on_what_is_evaluated_is_refused_unless_one_insists(place: Workplace, data: Path) -> None:
    both = "data.train_manifest=[data/train.tokens.jsonl,data/eval0.tokens.jsonl]"
    command = ("kimi_audio_ft.train", *QUIET, "logger=none", both, "data.eval_manifest=data/eval.tokens.jsonl")
    done = place.run(*command)
    assert done.code == 2
    assert "data/eval0.tokens.jsonl:1: trains on a recording that is evaluated, data/eval.tokens.jsonl:1" in done.err
    assert "2 of " in done.err and "data.allow_overlap=true" in done.err
    place.succeed(*command, "data.allow_overlap=true", "hydra.run.dir=insisted")
    overlap = scores_of(place.folder / "insisted")["overlap"]
    assert overlap["utterances"] == 2 and len(overlap["groups"]) >= 1
    place.succeed("multirun_analysis", "insisted")
    page = (place.folder / "insisted" / "report.html").read_text(encoding="utf-8")
    assert "evaluated utterances were trained on (data.allow_overlap)" in page
