"""Successive halving through the real command: killed after a rung, started again, and compared with a plain sweep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import SHORT, NewPlace, Workplace
from tests.sameness import assert_same, assert_same_results
from tests.trials_json import trials_of
from tests.wandb_server import KeptRun, WandbServer, settings_of

TRAIN = "kimi_audio_ft.train"
TEMPERATURES = "decoding.text_temperature=0.0,0.7"
HALVING = ("hydra/sweeper=halving", "hydra.sweeper.rungs=[2]", "hydra.launcher.pack_size=4")
BY_LOSS = ("hydra.sweeper.metric=loss", "hydra.sweep.dir=halved")
GRID = ("lora.r=2,4", "optim.lr=1e-4,1e-2", TEMPERATURES)

pytestmark = pytest.mark.slow

CRASH = '''
"""Kills the process, without a chance to clean up, when the first rung's decisions are on the disk."""

import os
import signal

from hydra.experimental.callback import Callback


class Crash(Callback):
    def on_multirun_start(self, config, **kwargs):
        from kimi_audio_ft.sweep.halving_run import HalvingRecord

        write = HalvingRecord.write

        def write_and_die(record, candidates):
            write(record, candidates)
            os.kill(os.getpid(), signal.SIGKILL)

        HalvingRecord.write = write_and_die
'''


@dataclass
class Halved:
    """A halving sweep that was killed after its rung and run again. dead, done: how both ended. runs: its W&B runs."""

    place: Workplace
    dead: Any
    at_death: dict[str, Any]
    files_at_death: dict[Path, int]
    done: Any
    runs: list[KeptRun]

    @property
    def record(self) -> dict[str, Any]:
        return read(self.place.folder / "halved" / "halving.json")

    @property
    def survivors(self) -> list[dict[str, Any]]:
        return [one for one in self.record["candidates"] if one["decision"] == "continued"]

    @property
    def stopped(self) -> list[dict[str, Any]]:
        return [one for one in self.record["candidates"] if one["decision"] == "stopped"]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def rung_files(place: Workplace) -> dict[Path, int]:
    """What the rung has left in the store, with the time each was written."""
    store = place.store
    found = [*(store / "rungs").glob("*.json"), *(store / "adapter").glob(".*.work/step=00000002/*")]
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def halved(new_workplace: NewPlace, loopback_wandb: WandbServer) -> Halved:
    """4 adapters of 4 steps, 2 of them stopped at the second one."""
    loopback_wandb.reset()
    place = new_workplace()
    (place.folder / "crash.py").write_text(CRASH, encoding="utf-8")
    command = ("-m", *SHORT, *HALVING, *BY_LOSS, *GRID, "logger=wandb", "logger.system_metrics=false")
    crash = "+hydra.callbacks.crash._target_=crash.Crash"
    dead = place.fork(TRAIN, *command, crash, **settings_of(loopback_wandb)).wait()
    at_death, files = read(place.folder / "halved" / "halving.json"), rung_files(place)
    done = place.fork(TRAIN, *command, prints="done", **settings_of(loopback_wandb)).wait()
    return Halved(place, dead, at_death, files, done, list(loopback_wandb.runs.values()))


def test_interrupted_sweep_goes_on_from_its_rung(halved: Halved) -> None:
    assert halved.dead.code == -9, halved.dead.err
    assert halved.done.code == 0, halved.done.err
    assert halved.record["candidates"] == halved.at_death["candidates"]  # with the times of the first decision
    kept = rung_files(halved.place)
    assert len([path for path in halved.files_at_death if path.suffix == ".json" and path.parent.name == "rungs"]) == 4
    assert kept.items() <= halved.files_at_death.items() and len(kept) < len(halved.files_at_death)
    before, _, after = halved.done.out.partition("Rung 1 of 1, step 2: 2 of 4 adapters continue")
    assert "fitting 1/4" not in before + after and "fitting 3/4" in after


def test_stopped_adapters_are_recorded_and_kept_for_later(halved: Halved) -> None:
    assert len(halved.survivors) == len(halved.stopped) == 2
    for one in halved.stopped:
        assert one["step"] == 2 and one["num_steps"] == 4 and one["jobs"] == 2
        assert one["score"] > max(other["score"] for other in halved.survivors)
        work = halved.place.store / "adapter" / f".{one['signature']}.work"
        assert [path.name for path in work.glob("step=*")] == ["step=00000002"]
    assert set(halved.place.products("adapter")) == {one["signature"] for one in halved.survivors}
    page = (halved.place.folder / "halved" / "report.html").read_text(encoding="utf-8")
    section = page.partition("Stopped early")[2].partition("</section>")[0]
    assert all(one["name"] in section for one in halved.stopped)
    assert "12 of 16 steps were enough (75 %)" in section
    assert "hydra/sweeper=halving" in page


def test_an_adapter_is_one_run_from_its_first_rung_to_its_end(halved: Halved) -> None:
    """Also where the process was killed between the two."""
    runs = {run.id: run for run in halved.runs if run.facts["jobType"] == "trial"}
    finished = [run for run in runs.values() if run.exit_code == 0]
    assert len(finished) == 4 and len(runs) <= 6, "of two adapters at two temperatures, and of two that were stopped"
    survivors = {one["signature"]: one for one in halved.survivors}
    for run in finished:
        one = survivors[run.config["record.signature"]]
        assert [step for step, _ in run.curve("val/loss")] == [1, 2, 3, 4]
        assert run.curve("halving/rung") == [(2, 1)] and run.curve("halving/score") == [(2, one["score"])]


def test_survivors_equal_those_of_a_plain_sweep(halved: Halved, new_workplace: NewPlace) -> None:
    """The same signatures, tensors and scores, from another store and a sweep that stopped nothing."""
    plain = new_workplace()
    plain.succeed(TRAIN, "-m", *SHORT, *GRID, "hydra.launcher.pack_size=4", "hydra.sweep.dir=plain")
    for one in halved.survivors:
        assert_same(*(place.store / "adapter" / one["signature"] for place in (halved.place, plain)))
    expected = {row["trial"]: row["scores"] for row in trials_of(plain.folder / "plain")}
    found = {row["trial"]: row["scores"] for row in trials_of(halved.place.folder / "halved")}
    assert len(found) == 4
    assert_same_results(found, {trial: expected[trial] for trial in found})


def test_by_cer_a_candidate_that_fails_is_out_with_its_reason(workplace: Workplace) -> None:
    exploding = ("lora.r=2,4", "optim.lr=1e-2,1e30", "optim.max_grad_norm=0", "baseline=false")
    said = workplace.succeed(TRAIN, "-m", *SHORT, *HALVING, *exploding, "hydra.sweep.dir=halved")
    folder = workplace.folder / "halved"
    candidates = {one["name"]: one for one in read(folder / "halving.json")["candidates"]}
    assert [one["decision"] for one in candidates.values()] == ["continued", "failed"] * 2
    failed = candidates["r=2 lr=1e+30"]
    assert "loss is" in failed["reason"] and failed["score"] is None
    for one in candidates.values():
        if one["decision"] == "continued":
            [file] = [f for f in (workplace.store / "rungs").glob("*.json") if read(f)["adapter"] == one["signature"]]
            assert read(file) == {"adapter": one["signature"], "step": 2, "metric": "cer", "score": one["score"]}
            assert 0 < one["score"] < 2
    assert len(trials_of(folder)) == 2
    assert "FAILED at step 2 (r=2 lr=1e+30): " in said.replace("\n", " ")
