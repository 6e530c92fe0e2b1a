"""Where sweeps lie: nested folders of trials, and folders that hold something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.conftest import POINTS, SHORT, Workplace
from tests.trials_json import trials_of

TRAIN = "kimi_audio_ft.train"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("launcher", ["packed", "basic"])
def test_nested_folders_are_found_by_the_sweeps_record(place: Workplace, first: Path, launcher: str) -> None:
    subdir = 'hydra.sweep.subdir="r${lora.r}/t${decoding.text_temperature}"'
    sweep = place.sweep(f"nested-{launcher}", *POINTS, subdir, f"hydra/launcher={launcher}")
    assert len(list(sweep.glob("r*/t*/scores.json"))) == 4
    figures = {json.dumps(row["params"], sort_keys=True): row["scores"] for row in trials_of(first)}
    assert {json.dumps(row["params"], sort_keys=True): row["scores"] for row in trials_of(sweep)} == figures


def test_hydras_own_folder_may_have_another_name_or_none(place: Workplace, first: Path) -> None:
    for number, name in enumerate(("null", "cfg")):
        sweep = place.sweep(f"hydra-{number}", *POINTS, f"hydra.output_subdir={name}")
        assert len(trials_of(sweep)) == len(trials_of(first))


def test_other_folders_below_a_sweep_are_neither_touched_nor_counted(place: Workplace, first: Path) -> None:
    single = place.folder / "mixed" / "a"
    place.succeed(TRAIN, *SHORT, "lora.r=2", "decoding.text_temperature=0.0", f"hydra.run.dir={single}")
    before = {path: path.read_bytes() for path in single.rglob("*") if path.is_file()}
    odd = place.folder / "mixed" / "odd"
    odd.mkdir()
    (odd / "scores.json").write_text('{"somebody": "else"}', encoding="utf-8")
    sweep = place.sweep("mixed", *POINTS)
    assert len(trials_of(sweep)) == len(trials_of(first))
    assert {path: path.read_bytes() for path in single.rglob("*") if path.is_file()} == before
    assert (odd / "scores.json").is_file()


def test_a_wrong_value_costs_a_finished_sweep_nothing(place: Workplace, first: Path) -> None:
    before = {path: path.read_bytes() for path in first.rglob("scores.json")}
    wrong = ("lora.r=2,4", "optim.lr=1e-3,abc", f"hydra.sweep.dir={first}")
    done = place.run(TRAIN, "-m", *SHORT, *wrong)
    assert done.code == 2 and "abc" in done.err
    kept = {path: path.read_bytes() for path in place.folder.rglob("scores.json") if path.parts[-3] != "mixed"}
    assert set(before.values()) <= set(kept.values())
