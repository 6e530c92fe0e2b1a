"""Sweeps through the real command: what is made once, what is never made again, and what every trial leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.scoring import score
from kimi_audio_ft.store.__main__ import main as prune
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.store.make import KINDS
from kimi_audio_ft.store.prune import Rules, plan
from tests.faults.sweeps import until
from tests.integration.conftest import POINTS, SHORT, NewPlace, Workplace
from tests.sameness import assert_same_results
from tests.trials_json import scores_of, trials_of

TRAIN = "kimi_audio_ft.train"
# What two runs of one trial may differ in: time, place, and whether the adapter was there.
INCIDENTAL = ("train_seconds", "decode_seconds", "train_reused", "command", "trial")

pytestmark = pytest.mark.slow


def trials(sweep_folder: Path) -> list[Path]:
    return sorted(path for path in sweep_folder.iterdir() if path.name.isdecimal())


def results(sweep_folder: Path) -> dict[str, dict[str, Any]]:
    """Everything about every trial that must not depend on how it came to be, by trial number."""
    return {folder.name: essence(folder) for folder in trials(sweep_folder)}


def table_of(sweep_folder: Path) -> list[dict[str, Any]]:
    """The trials of ``trials.json`` without what two runs may differ in."""
    return [{key: value for key, value in row.items() if key not in INCIDENTAL} for row in trials_of(sweep_folder)]


def essence(folder: Path) -> dict[str, Any]:
    kept = {key: value for key, value in scores_of(folder).items() if key not in INCIDENTAL}
    return kept | {"utterances": (folder / "utterances.jsonl").read_text(encoding="utf-8")}


def test_trials_that_differ_in_decoding_share_an_adapter(place: Workplace, first: Path) -> None:
    assert [path.name for path in trials(first)] == ["0", "1", "2", "3"]
    assert len(place.products("adapter")) == 2
    signatures = [scores_of(path)["signature"] for path in trials(first)]
    assert signatures[0] == signatures[1] != signatures[2] == signatures[3]
    assert [scores_of(path)["train_reused"] for path in trials(first)] == [False, True, False, True]
    # 2 adapters and the base, each at 2 temperatures
    assert len(place.products("transcript")) == 6


def test_prune_leftovers_takes_the_store_of_a_sweep_to_its_products(swept: Workplace, private_store: Path) -> None:
    shutil.copytree(swept.store, private_store)
    products = {path.parent for path in private_store.glob("*/*/product.json")}
    prune(["prune", "--leftovers", "--yes"])
    assert plan(Rules(leftovers=True)) == [] and {row["kind"] for row in listing()} == set(KINDS) - {"qwen2"}
    files = [path for path in private_store.rglob("*") if path.is_file() and not products & set(path.parents)]
    own = {path.relative_to(private_store).parts[0] for path in files}
    assert own == {"uses", "digests.sqlite"}, "beside products: who used them, and the digests of files outside"


def test_scores_are_those_of_the_written_utterances(first: Path) -> None:
    for folder in trials(first):
        rows = read_jsonl(folder / "utterances.jsonl")
        references = {row["id"]: row["reference"] for row in rows}
        hypotheses = {row["id"]: row["hypothesis"] for row in rows}
        assert len(references) == 6
        scores = scores_of(folder)
        for key, value in score(references, hypotheses).items():
            assert scores[key] == pytest.approx(value), key
        assert scores["normalised"]["cer"] == pytest.approx(score(references, hypotheses, "normalised")["cer"])
        assert scores["params"]["lora.lora_alpha"] == 2 * scores["params"]["lora.r"]


def test_report_holds_every_trial_and_the_base_at_every_temperature(first: Path) -> None:
    page = (first / "report.html").read_text(encoding="utf-8")
    assert "lora.r" in page and "text_temperature" in page
    table = json.loads((first / "trials.json").read_text(encoding="utf-8"))
    text = json.dumps(table)
    for folder in trials(first):
        assert scores_of(folder)["signature"] in text
        base = scores_of(folder, "baseline.json")
        assert base["signature"] == "base"
        assert base["params"]["decoding.text_temperature"] == scores_of(folder)["params"]["decoding.text_temperature"]
    lines = (first / "trials.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == 1 + 4 + 2  # header, trials, the base at two temperatures


def test_same_command_again_makes_nothing(place: Workplace, first: Path) -> None:
    before = {kind: place.products(kind) for kind in ("adapter", "transcript", "features")}
    again = place.sweep("again", *POINTS)
    assert {kind: place.products(kind) for kind in before} == before
    assert results(again) == results(first)


def test_same_folder_again_keeps_no_trial_of_the_larger_sweep(place: Workplace, first: Path) -> None:
    place.sweep("reused", *POINTS)
    smaller = place.sweep("reused", "lora.r=2", "decoding.text_temperature=0.0,0.7")
    assert [row["status"] for row in trials_of(smaller)] == ["COMPLETED"] * 2


def test_launchers_give_the_same_numbers(first: Path, new_workplace: NewPlace) -> None:
    basic = new_workplace().sweep("basic", "hydra/launcher=basic", *POINTS)
    assert_same_results(results(basic), results(first))
    assert_same_results(table_of(basic), table_of(first))
    fitted = [[scores_of(path)["train_reused"] for path in trials(folder)] for folder in (basic, first)]
    assert fitted[0] == fitted[1]


def test_packs_side_by_side_give_the_same_numbers(first: Path, new_workplace: NewPlace) -> None:
    """More than there are tasks: the base alone is a third one."""
    sweep = new_workplace().sweep("several", "hydra.launcher.parallel=4", *POINTS)
    assert_same_results(results(sweep), results(first))
    tasks = sorted((sweep / "packs" / "001").glob("task-?.json"))
    assert [json.loads(task.read_text(encoding="utf-8"))["side_by_side"] for task in tasks] == [3, 3, 3]


def test_ctrl_c_saves_and_the_same_command_goes_on(new_workplace: NewPlace) -> None:
    """While it runs, a second sweep of its folder is refused."""
    stopped = new_workplace()
    # Long enough that no machine is done before it hears of it.
    longer = ("trainer.max_epochs=20", "trainer.max_steps=20")
    command = ("-m", *SHORT, *POINTS, *longer, "hydra.sweep.dir=sweep")
    running = stopped.fork(TRAIN, *command)
    # In a pack or alone, as the search for a size has found.
    until(lambda: ": fitting" in running.out.read_text(encoding="utf-8") or running.process.exitcode is not None)
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGSTOP)  # it must not end before the second has seen it
    second = stopped.run(TRAIN, *command)
    assert second.code == 2 and "is being run (pid " in second.err, second.err
    os.kill(running.process.pid, signal.SIGINT)
    os.kill(running.process.pid, signal.SIGCONT)
    done = running.wait()
    assert done.code == 130, done.err
    assert "finishing the step, saving" in done.out
    assert "interrupted" in done.err
    assert not list((stopped.store / "adapter").glob(".*.draft"))
    stopped.succeed(TRAIN, *command)
    assert [scores_of(path)["steps"] for path in trials(stopped.folder / "sweep")] == [20] * 4


def test_a_sweep_whose_hours_are_over_reports_what_there_is_and_goes_on(place: Workplace, first: Path) -> None:
    """Hours of no length at all: what is in the store is scored, and nothing new is made."""
    command = ("-m", *SHORT, "lora.r=2,8", "decoding.text_temperature=0.0", "hydra.sweep.dir=limited")
    before = place.products("adapter")
    done = place.run(TRAIN, *command, "hydra.launcher.hours=1e-9")
    assert done.code == os.EX_TEMPFAIL, done.err
    assert place.products("adapter") == before
    said = done.err.splitlines()
    assert said[0] == "hydra.launcher.hours=1e-09: the time is up; completed work is saved"
    assert said[1] == "1 of 2 trials are done in limited" and said[2] == "Resume with:"
    assert said[3].endswith("hydra.launcher.hours=1e-9")
    assert "This is a partial report" in " ".join(done.out.split())
    page = (place.folder / "limited" / "report.html").read_text(encoding="utf-8")
    assert "1 trial finished, 1 not started" in page and "This is a partial report" in page
    place.succeed(TRAIN, *command)
    assert [row["status"] for row in trials_of(place.folder / "limited")] == ["COMPLETED"] * 2


def test_a_dry_run_tells_what_a_sweep_would_make_and_leaves_nothing(place: Workplace, first: Path) -> None:
    before = {path for path in place.folder.rglob("*") if "store/" not in str(path)}
    products = {kind: place.products(kind) for kind in ("adapter", "transcript", "features")}
    command = ("-m", *SHORT, "decoding.text_temperature=0.0,0.7", "hydra.sweep.dir=first", "lora.r=2,16,32")
    said = place.succeed(TRAIN, *command, "hydra.launcher.dry_run=laptop", "hydra.launcher.hours=1e-5")
    assert "trials       6, of which 2 need only scoring" in said
    assert "adapters     2 to train, 1 in the store" in said and "transcripts  4 to decode, 4 in the store" in said
    assert "recordings   0 to encode" in said and "laptop, 2 cores, from published figures" in said
    assert "more than hydra.launcher.hours=1e-05" in said
    halving = ("hydra/sweeper=halving", "hydra.sweeper.rungs=[0.5]", "hydra.sweeper.finalists=1")
    said = place.succeed(TRAIN, *command, *halving, "hydra.launcher.dry_run=h100")
    assert "75 % of the trainings' steps are in the time" in said and "2 further trainings" in said
    assert {path for path in place.folder.rglob("*") if "store/" not in str(path)} == before
    assert {kind: place.products(kind) for kind in products} == products
    assert not [name for name in (place.store / "uses").iterdir() if "dry-run" in name.read_text(errors="replace")]


def test_hours_are_of_a_sweep(place: Workplace) -> None:
    alone = place.run(TRAIN, *SHORT, "hydra.launcher.hours=1")
    assert alone.code == 2 and "hydra.launcher.hours=1.0: is for a sweep" in alone.err and "Add -m" in alone.err
    wrong = place.run(TRAIN, "-m", *SHORT, "hydra.launcher.hours=0", "hydra.sweep.dir=none")
    assert wrong.code == 2 and "hydra.launcher.hours=0.0: must be a number of hours greater than 0" in wrong.err


def test_another_temperature_trains_nothing(place: Workplace, first: Path) -> None:
    before = place.products("adapter")
    wider = place.sweep("wider", "lora.r=2,4", "decoding.text_temperature=0.0,0.3,0.7")
    assert place.products("adapter") == before
    assert [scores_of(path)["cer"] for path in trials(wider)][0::3] == [
        scores_of(first / number)["cer"] for number in ("0", "2")
    ]


def test_trial_alone_equals_the_same_trial_in_a_sweep(first: Path, new_workplace: NewPlace) -> None:
    alone = new_workplace()
    said = alone.succeed(TRAIN, *SHORT, "lora.r=4", "decoding.text_temperature=0.7", "hydra.run.dir=alone")
    assert_same_results(essence(alone.folder / "alone"), essence(first / "3"))
    assert "CER" in said and str(alone.folder / "alone") in said


CRASH = '''
"""Kills the process, without a chance to clean up, when the second adapter's first checkpoint is on the disk."""

import os
import signal

from hydra.experimental.callback import Callback


class Crash(Callback):
    def on_job_start(self, config, *, task_function, **kwargs):
        if config.hydra.job.num != 2:
            return
        from kimi_audio_ft.training import checkpoint

        save = checkpoint.write_checkpoint

        def save_and_die(*arguments, **options):
            save(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.write_checkpoint = save_and_die
'''


def test_killed_sweep_goes_on(first: Path, new_workplace: NewPlace) -> None:
    killed = new_workplace()
    (killed.folder / "crash.py").write_text(CRASH, encoding="utf-8")
    # In one process, so that the callback is where the training is; tests/faults kills packs.
    command = ("-m", "hydra/launcher=basic", *SHORT, *POINTS, "trainer.save_every=2", "hydra.sweep.dir=sweep")
    dead = killed.fork(TRAIN, *command, "+hydra.callbacks.crash._target_=crash.Crash").wait()
    assert dead.code == -9, dead.err
    finished = killed.products("adapter")
    assert len(finished) == 1
    assert [path.name for path in (killed.store / "adapter").glob(".*.work/step=*")] == ["step=00000002"]

    said = killed.succeed(TRAIN, *command)
    assert "resuming from" in said
    assert_same_results(results(killed.folder / "sweep"), results(first))
    assert killed.products("adapter").items() >= finished.items()
    assert not list((killed.store / "adapter").glob(".*.work"))


def test_two_sweeps_at_once_make_everything_once(first: Path, new_workplace: NewPlace) -> None:
    shared = new_workplace()
    running = shared.fork(TRAIN, "-m", *SHORT, *POINTS, "hydra.sweep.dir=left")
    shared.sweep("right", *POINTS)
    other = running.wait()
    assert other.code == 0, other.err
    sweeps = [shared.folder / name for name in ("left", "right")]
    for folder in sweeps:
        assert_same_results(results(folder), results(first))
    assert len(shared.products("adapter")) == 2
    # Each adapter was fitted by one of the four trials that wanted it; the others waited for it or found it.
    fitted = [scores_of(path)["signature"] for s in sweeps for path in trials(s) if not scores_of(path)["train_reused"]]
    assert sorted(fitted) == sorted(shared.products("adapter"))


def test_failed_trial_does_not_stop_the_others(place: Workplace, first: Path) -> None:
    failing = ("lora.r=0,2", "decoding.text_temperature=0.0", "hydra.sweep.dir=failing")
    done = place.run(TRAIN, "-m", *SHORT, *failing)
    folder = place.folder / "failing"
    assert done.code == 2
    assert "1 of 2 trials failed" in done.err and "failing/0/train.log (" in done.err
    assert "Traceback" not in done.err + done.out
    assert_same_results(scores_of(folder / "1")["cer"], scores_of(first / "0")["cer"])
    failure = json.loads((folder / "0" / "failure.json").read_text(encoding="utf-8"))
    assert failure["error_type"] == "ConfigError" and "rank must be 1 or more" in failure["message"]
    assert "rank must be 1 or more" in (folder / "0" / "train.log").read_text(encoding="utf-8")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "FAILED" in page and "rank must be 1 or more" in page


def test_trial_whose_loss_explodes_fails_alone(place: Workplace) -> None:
    exploding = ("optim.lr=1e30,3e-3", "optim.max_grad_norm=0", "lora.r=2", "hydra.sweep.dir=exploding")
    done = place.run(TRAIN, "-m", *SHORT, *exploding)
    assert done.code == 2
    assert "exploding/0" in done.err and "loss is" in done.err and "Lower optim.lr" in done.err
    assert (place.folder / "exploding" / "1" / "scores.json").is_file()
    assert not (place.folder / "exploding" / "0" / "scores.json").exists()
