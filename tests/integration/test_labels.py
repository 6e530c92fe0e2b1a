"""Wrong labels planted into the demo's corpus, found by the two commands that a newcomer types."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
LABELS, EVALUATE = "multirun_analysis.labels", "kimi_audio_ft.evaluate"
MANIFEST = Path("data") / "train.tokens.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def swapped(place: Any) -> set[str]:
    """Ids of two lines of the training manifest that have each other's text now."""
    lines = lines_of(place.folder / MANIFEST)
    answers = [line["conversation"][-1] for line in lines]
    order = sorted(range(len(lines)), key=lambda index: len(answers[index]["content"]))
    one, other = answers[order[0]], answers[order[-1]]
    one["content"], other["content"] = other["content"], one["content"]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (place.folder / MANIFEST).write_text(text, encoding="utf-8")
    return {lines[order[0]]["id"], lines[order[-1]]["id"]}


@pytest.fixture(scope="module")
def evaluated(place: Any, swapped: set[str], points: tuple[str, ...]) -> Any:
    """The first command: two adapters and the base, on what the adapters were trained on."""
    place.sweep("first", *points)
    signatures = sorted(place.products("adapter"))
    return place.run(
        EVALUATE,
        "-m",
        f"adapter={','.join(signatures)},null",
        f"data.eval_manifest={MANIFEST}",
        *("losses=true", "decoding=greedy", "decoding.max_new_tokens=40", "trainer.progress=false"),
        "hydra.sweep.dir=on_train",
    )


def test_losses_are_written_and_the_next_command_is_named(place: Any, evaluated: Any) -> None:
    assert evaluated.code == 0, evaluated.err
    assert evaluated.out.count("python -m multirun_analysis.labels on_train\n") == 3
    ids = [line["id"] for line in lines_of(place.folder / MANIFEST)]
    for job in "012":
        rows = lines_of(place.folder / "on_train" / job / "utterances.jsonl")
        assert [row["id"] for row in rows] == ids and all(row["loss"] > 0 for row in rows)
    losses = [[row["loss"] for row in lines_of(place.folder / "on_train" / job / "utterances.jsonl")] for job in "02"]
    assert losses[0] != losses[1]


def test_a_swapped_label_is_the_first_suspect(place: Any, evaluated: Any, swapped: set[str]) -> None:
    done = place.run(LABELS, "on_train", "--manifest", str(MANIFEST))
    assert done.code == 0, done.err
    with (place.folder / "on_train" / "suspects.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    # The tiny base mishears most of this corpus: of nine references it is sure of one of the two that were swapped.
    assert rows[0]["id"] in swapped
    assert all(row["reasons"] for row in rows[:4])
    lines = lines_of(place.folder / MANIFEST)
    for row in rows:
        line = lines[int(row["line"]) - 1]
        assert (row["id"], row["reference"]) == (line["id"], line["conversation"][-1]["content"])
        assert row["recording"] == line["group"] and Path(row["audio"]).is_file()
        seconds = 0.08 * len(line["conversation"][1]["audio_tokens"])
        assert float(row["seconds"]) == pytest.approx(seconds, abs=0.08)


def test_an_evaluation_without_losses_is_as_it_was(place: Any, swapped: set[str]) -> None:
    options = ("decoding=greedy", "decoding.max_new_tokens=8", "trainer.progress=false", "hydra.run.dir=plain")
    done = place.run(EVALUATE, f"data.eval_manifest={MANIFEST}", *options)
    assert done.code == 0 and LABELS not in done.out
    assert "loss" not in lines_of(place.folder / "plain" / "utterances.jsonl")[0]
    refused = place.run(LABELS, "plain")
    assert refused.code == 2 and "losses=true" in refused.err
