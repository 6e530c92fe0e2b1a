"""Wrong labels planted into the demo's corpus, found by the two commands that a newcomer types."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.files import read_jsonl, write_jsonl
from tests.integration.conftest import POINTS, Workplace

pytestmark = pytest.mark.slow
LABELS, EVALUATE = "multirun_analysis.labels", "kimi_audio_ft.evaluate"
MANIFEST = Path("data") / "train.tokens.jsonl"


@pytest.fixture(scope="module")
def swapped(place: Workplace) -> set[str]:
    """Ids of two lines of the training manifest that have each other's text now."""
    lines = read_jsonl(place.folder / MANIFEST)
    answers = [line["conversation"][-1] for line in lines]
    order = sorted(range(len(lines)), key=lambda index: len(answers[index]["content"]))
    one, other = answers[order[0]], answers[order[-1]]
    one["content"], other["content"] = other["content"], one["content"]
    write_jsonl(place.folder / MANIFEST, lines)
    return {lines[order[0]]["id"], lines[order[-1]]["id"]}


@pytest.fixture(scope="module")
def evaluated(place: Workplace, swapped: set[str]) -> Any:
    """The first command: two adapters and the base, on what the adapters were trained on."""
    place.sweep("first", *POINTS)
    signatures = sorted(place.products("adapter"))
    return place.run(
        EVALUATE,
        "-m",
        f"adapter={','.join(signatures)},null",
        f"data.eval_manifest={MANIFEST}",
        *("losses=true", "decoding=greedy", "decoding.max_new_tokens=40", "trainer.progress=false"),
        "hydra.sweep.dir=on_train",
    )


def test_losses_are_written_and_the_next_command_is_named(place: Workplace, evaluated: Any) -> None:
    assert evaluated.code == 0, evaluated.err
    assert evaluated.out.count("python -m multirun_analysis.labels on_train\n") == 3
    ids = [line["id"] for line in read_jsonl(place.folder / MANIFEST)]
    for job in "012":
        rows = read_jsonl(place.folder / "on_train" / job / "utterances.jsonl")
        assert [row["id"] for row in rows] == ids and all(row["loss"] > 0 for row in rows)
        assert all(row["token_losses"][-1][0] == len(row["reference"]) for row in rows)
    losses = [[row["loss"] for row in read_jsonl(place.folder / "on_train" / job / "utterances.jsonl")] for job in "02"]
    assert losses[0] != losses[1]


def test_a_swapped_label_is_the_first_suspect(place: Workplace, evaluated: Any, swapped: set[str]) -> None:
    place.succeed(LABELS, "on_train", "--manifest", str(MANIFEST))
    with (place.folder / "on_train" / "suspects.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    # The tiny base mishears most of this corpus: of nine references it is sure of one of the two that were swapped.
    assert rows[0]["id"] in swapped
    assert all(row["reasons"] and row["suspect_word"] for row in rows[:4])
    lines = read_jsonl(place.folder / MANIFEST)
    for row in rows:
        line = lines[int(row["line"]) - 1]
        assert (row["id"], row["reference"]) == (line["id"], line["conversation"][-1]["content"])
        assert row["recording"] == line["group"] and Path(row["audio"]).is_file()
        seconds = 0.08 * len(line["conversation"][1]["audio_tokens"])
        assert float(row["seconds"]) == pytest.approx(seconds, abs=0.08)


def test_an_evaluation_without_losses_is_as_it_was(place: Workplace, swapped: set[str]) -> None:
    options = ("decoding=greedy", "decoding.max_new_tokens=8", "trainer.progress=false", "hydra.run.dir=plain")
    done = place.run(EVALUATE, f"data.eval_manifest={MANIFEST}", *options)
    assert done.code == 0 and LABELS not in done.out
    assert "loss" not in read_jsonl(place.folder / "plain" / "utterances.jsonl")[0]
    refused = place.run(LABELS, "plain")
    assert refused.code == 2 and "losses=true" in refused.err
