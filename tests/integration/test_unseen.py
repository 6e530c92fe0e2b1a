"""The choice of a sweep on data that no trial has seen: decoded after it, or by hand, and never by a trial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kimi_audio_ft.files import read_json_object, read_jsonl
from tests.integration.conftest import Workplace
from tests.trials_json import scores_of

pytestmark = pytest.mark.slow

SWEEP = (
    *("kimi_audio_ft.train", "-m", "trainer.max_steps=2", "decoding.max_new_tokens=4", "trainer.progress=false"),
    *("trainer.threads=0", "logger=none", "data.train_manifest=data/train.tokens.jsonl", "lora.r=2,4"),
    *("hydra.sweep.dir=sweep", "data.eval_manifest=data/eval0.tokens.jsonl"),
)
TEST, GUARD = "data.test_manifest=data/eval1.tokens.jsonl", "data.guard_manifests={general:data/eval1.tokens.jsonl}"


@pytest.fixture(scope="module")
def data(place: Workplace) -> Path:
    """The evaluation manifest in two, by recordings: ``eval0`` and ``eval1``."""
    lines = (place.folder / "data/eval.tokens.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    first = json.loads(lines[0])["group"]
    for number in range(2):
        part = [line for line in lines if (json.loads(line)["group"] != first) == bool(number)]
        (place.folder / f"data/eval{number}.tokens.jsonl").write_text("".join(part), encoding="utf-8")
    return place.folder / "data"


def test_a_sweep_confirms_its_choice_on_what_no_trial_sees(place: Workplace, data: Path) -> None:
    said = place.succeed(*SWEEP, TEST, GUARD)
    assert "decoding on unseen data: data/eval1.tokens.jsonl (3 utterances)" in said
    unseen, trial = place.folder / "sweep" / "unseen", scores_of(place.folder / "sweep" / "0")
    assert trial["test_manifest"] == "data/eval1.tokens.jsonl"
    record = read_json_object(unseen / "record.json", "")
    assert record["test"]["trials"] == ["0"] and record["test"]["looks"] == 1
    tested, base = scores_of(unseen / "test" / "0"), read_json_object(unseen / "test" / "0" / "baseline.json", "")
    assert tested["signature"] == trial["signature"] and tested["params"] == trial["params"]
    assert tested["eval_identity"] == base["eval_identity"] == record["test"]["identity"] != trial["eval_identity"]
    rows = read_jsonl(unseen / "test" / "0" / "utterances.jsonl")
    assert {row["id"] for row in rows} == {row["id"] for row in read_jsonl(data / "eval1.tokens.jsonl")}
    assert tested["cer"] == sum(row["edits"] for row in rows) / sum(row["chars"] for row in rows)
    assert f"lora.r=2: CER on unseen data {tested['cer']:.1%}".replace("%", " %") in " ".join(said.split())
    told = read_json_object(place.folder / "sweep" / "trials.json", "")["unseen"]
    assert told["test"]["cer"] == pytest.approx(tested["cer"]) and told["test"]["base_cer"] == pytest.approx(
        base["cer"]
    )
    guarded = scores_of(unseen / "guards" / "general" / "0")
    assert guarded["transcript_signatures"] == tested["transcript_signatures"]

    made = place.products("transcript")
    place.succeed("multirun_analysis", "sweep", "--confirm")
    assert place.products("transcript") == made
    assert read_json_object(unseen / "record.json", "") == record

    (unseen / "record.json").rename(unseen / "mine.json")
    assert place.run("multirun_analysis", "sweep", "--confirm").code == 2
    assert (unseen / "mine.json").is_file(), "a folder that is not ours was taken away"


def test_what_is_tested_is_neither_trained_on_nor_chosen_by(place: Workplace, data: Path) -> None:
    for value, problem in (
        ("data/train.tokens.jsonl", "trains on a recording that is tested, data/train.tokens.jsonl:1"),
        ("data/eval.tokens.jsonl", "evaluates a recording that is tested, data/eval.tokens.jsonl:1"),
        ("nowhere.jsonl", "data.test_manifest='nowhere.jsonl': must name a pretokenized manifest, and there is no"),
    ):
        done = place.run(SWEEP[0], *SWEEP[2:8], SWEEP[10], "lora.r=2", f"data.test_manifest={value}")
        assert done.code == 2 and problem in done.err, done.err
