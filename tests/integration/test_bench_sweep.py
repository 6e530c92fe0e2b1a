"""The ladder of sweeps, small: every way of working computes the same, and the dear ways are the dear ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.bench_sweep import QUICK, SIZES, Bench, page, workload
from experiments.sweep_ladder.checks import against_sweep, reference_of
from experiments.sweep_ladder.rungs import LADDER
from tests.integration.conftest import NewPlace

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(new_workplace: NewPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The quick ladder on the tests' corpus: three steps of nine conversations, six utterances."""
    place, folder = new_workplace(), tmp_path / "quick"
    (folder / "stores").mkdir(parents=True)
    shutil.move(place.folder / "data", folder / "data")
    shutil.move(place.store, folder / "stores" / "features")
    (folder / "made").touch()
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", "")  # set anew in this process, and put back at the end
    return Bench(replace(workload("quick", tmp_path, 1), epochs=3), SIZES["quick"], True, 3, print)


def test_every_rung_computes_the_same(bench: Bench) -> None:
    # Within one process these are "published" and "lean" again.
    parts = [name for name in QUICK if name not in ("both_cores", "encoding")]
    bench.measure(parts)
    found, costs = bench.found, bench.costs()
    packed = found["sweep 7"]
    assert reference_of(found) == "sweep 7"
    assert packed["adapters"] == 2 and len(packed["cer"]) == 4
    for name in parts[1:]:
        checked = against_sweep(bench.work, found[name], packed)
        assert checked["loss_difference"] < 1e-4, name
        assert checked["equal_texts"] == checked["texts"] > 0, name
    # Factors of five and more, in seconds of the processor.
    assert found["published"]["step"]["cpu"] > found["batched"]["step"]["cpu"]
    assert found["published"]["utterance"]["cpu"] > found["together"]["utterance"]["cpu"]
    for rung in LADDER:
        assert (costs.of(rung) is None) == (rung[0] in "26"), rung
    one, both = costs.of(LADDER[0], trials=1), costs.of(LADDER[0], trials=2)
    assert one and both and both.cpu == pytest.approx(2 * one.cpu)
    text = page(bench, "cpu", "", bench.work.folder)
    assert "3: real batches" in text and "losses within" in text
    assert (bench.work.folder / "bench_sweep_quick.png").stat().st_size > 10_000

    found["batched"]["texts"]["0"] = {key: text + "!" for key, text in found["batched"]["texts"]["0"].items()}
    found["batched"]["losses"][1] += 0.1
    checked = against_sweep(bench.work, found["batched"], packed)
    assert checked["loss_difference"] > 0.09 and checked["equal_texts"] < checked["texts"]
