"""Sweeps through the real command: what is made once, what is never made again, and what every trial leaves behind."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.scoring import score

TRAIN = "kimi_audio_ft.train"
POINTS = ("lora.r=2,4", "decoding.text_temperature=0.0,0.7")
# What two runs of one trial may differ in: time, place, and whether the adapter was there.
INCIDENTAL = ("train_seconds", "decode_seconds", "train_reused", "command", "trial")

pytestmark = pytest.mark.slow


def sweep(place: Any, short: tuple[str, ...], folder: str, *overrides: str) -> Path:
    """Run a sweep to its good end; returns its folder."""
    done = place.run(TRAIN, "-m", *short, f"hydra.sweep.dir={folder}", *overrides)
    assert done.code == 0, done.err
    return place.folder / folder


def scores_of(folder: Path, name: str = "scores.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def results(sweep_folder: Path) -> dict[str, dict[str, Any]]:
    """Everything about every trial that must not depend on how it came to be, by trial number."""
    return {folder.name: essence(folder) for folder in trials(sweep_folder)}


def essence(folder: Path) -> dict[str, Any]:
    kept = {key: value for key, value in scores_of(folder).items() if key not in INCIDENTAL}
    return kept | {"utterances": (folder / "utterances.jsonl").read_text(encoding="utf-8")}


def trials(sweep_folder: Path) -> list[Path]:
    return sorted(path for path in sweep_folder.iterdir() if path.name.isdecimal())


def products(place: Any, kind: str) -> dict[str, int]:
    """Products of the store with the time each was made."""
    found = (place.store / kind).glob("[!.]*/product.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def place(new_workplace: Callable[[], Any]) -> Any:
    return new_workplace()


@pytest.fixture(scope="module")
def first(place: Any, short: tuple[str, ...]) -> Path:
    """Two ranks at two temperatures, in a store that knew none of it."""
    return sweep(place, short, "first", *POINTS)


def test_trials_that_differ_in_decoding_share_an_adapter(place: Any, first: Path) -> None:
    assert [path.name for path in trials(first)] == ["0", "1", "2", "3"]
    assert len(products(place, "adapter")) == 2
    signatures = [scores_of(path)["signature"] for path in trials(first)]
    assert signatures[0] == signatures[1] != signatures[2] == signatures[3]
    assert [scores_of(path)["train_reused"] for path in trials(first)] == [False, True, False, True]
    # 2 adapters and the base, each at 2 temperatures
    assert len(products(place, "transcript")) == 6


def test_scores_are_those_of_the_written_utterances(first: Path) -> None:
    for folder in trials(first):
        rows = [json.loads(line) for line in (folder / "utterances.jsonl").read_text(encoding="utf-8").splitlines()]
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


def test_same_command_again_makes_nothing(place: Any, first: Path, short: tuple[str, ...]) -> None:
    before = {kind: products(place, kind) for kind in ("adapter", "transcript", "features")}
    again = sweep(place, short, "again", *POINTS)
    assert {kind: products(place, kind) for kind in before} == before
    assert results(again) == results(first)


def test_same_folder_again_keeps_no_trial_of_the_larger_sweep(place: Any, short: tuple[str, ...]) -> None:
    sweep(place, short, "reused", *POINTS)
    smaller = sweep(place, short, "reused", "lora.r=2", "decoding.text_temperature=0.0,0.7")
    table = json.loads((smaller / "trials.json").read_text(encoding="utf-8"))
    assert [row["status"] for row in table["trials"]] == ["COMPLETED"] * 2


def test_another_temperature_trains_nothing(place: Any, first: Path, short: tuple[str, ...]) -> None:
    before = products(place, "adapter")
    wider = sweep(place, short, "wider", "lora.r=2,4", "decoding.text_temperature=0.0,0.3,0.7")
    assert products(place, "adapter") == before
    assert [scores_of(path)["cer"] for path in trials(wider)][0::3] == [
        scores_of(first / number)["cer"] for number in ("0", "2")
    ]


def test_trial_alone_equals_the_same_trial_in_a_sweep(
    first: Path, new_workplace: Callable[[], Any], short: tuple[str, ...]
) -> None:
    alone = new_workplace()
    done = alone.run(TRAIN, *short, "lora.r=4", "decoding.text_temperature=0.7", "hydra.run.dir=alone")
    assert done.code == 0, done.err
    assert essence(alone.folder / "alone") == essence(first / "3")
    assert "CER" in done.out and str(alone.folder / "alone") in done.out


CRASH = '''
"""Kills the process, without a chance to clean up, when the second adapter's first checkpoint is on the disk."""

import os
import signal

from hydra.experimental.callback import Callback


class Crash(Callback):
    def on_job_start(self, config, *, task_function, **kwargs):
        if config.hydra.job.num != 2:
            return
        from kimi_audio_ft.training.checkpoint import AdapterCheckpointIO

        save = AdapterCheckpointIO.save_checkpoint

        def save_and_die(*arguments, **options):
            save(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        AdapterCheckpointIO.save_checkpoint = save_and_die
'''


def test_killed_sweep_goes_on(
    first: Path, new_workplace: Callable[[], Any], short: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = new_workplace()
    (killed.folder / "crash.py").write_text(CRASH, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(killed.folder))
    command = ("-m", *short, *POINTS, "trainer.save_every=2", "hydra.sweep.dir=sweep")
    dead = killed.run_apart(TRAIN, *command, "+hydra.callbacks.crash._target_=crash.Crash")
    assert dead.code == -9, dead.err
    finished = products(killed, "adapter")
    assert len(finished) == 1
    assert [path.name for path in (killed.store / "adapter").glob(".*.work/step=*")] == ["step=00000002"]

    done = killed.run(TRAIN, *command)
    assert done.code == 0, done.err
    assert "going on from" in done.out
    assert results(killed.folder / "sweep") == results(first)
    assert products(killed, "adapter").items() >= finished.items()
    assert not list((killed.store / "adapter").glob(".*.work"))


def test_two_sweeps_at_once_make_everything_once(
    first: Path, new_workplace: Callable[[], Any], short: tuple[str, ...]
) -> None:
    shared = new_workplace()
    running = [shared.start(TRAIN, "-m", *short, *POINTS, f"hydra.sweep.dir={name}") for name in ("left", "right")]
    for process in running:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    sweeps = [shared.folder / name for name in ("left", "right")]
    for folder in sweeps:
        assert results(folder) == results(first)
    assert len(products(shared, "adapter")) == 2
    # Each adapter was fitted by one of the four trials that wanted it; the others waited for it or found it.
    fitted = [scores_of(path)["signature"] for s in sweeps for path in trials(s) if not scores_of(path)["train_reused"]]
    assert sorted(fitted) == sorted(products(shared, "adapter"))


def test_failed_trial_does_not_stop_the_others(place: Any, short: tuple[str, ...], first: Path) -> None:
    points = ("lora.r=0,2", "decoding.text_temperature=0.0", "hydra.sweep.dir=failing")
    done = place.run(TRAIN, "-m", *short, *points)
    folder = place.folder / "failing"
    assert done.code == 2
    assert "1 of 2 trials failed" in done.err and "failing/0 (" in done.err
    assert "Traceback" not in done.err + done.out
    assert scores_of(folder / "1")["cer"] == scores_of(first / "0")["cer"]
    failure = json.loads((folder / "0" / "failure.json").read_text(encoding="utf-8"))
    assert failure["error_type"] == "ConfigError" and "rank must be 1 or more" in failure["message"]
    assert "rank must be 1 or more" in (folder / "0" / "train.log").read_text(encoding="utf-8")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "FAILED" in page and "rank must be 1 or more" in page


def test_trial_whose_loss_explodes_fails_alone(place: Any, short: tuple[str, ...]) -> None:
    points = ("optim.lr=1e30,3e-3", "optim.max_grad_norm=0", "lora.r=2", "hydra.sweep.dir=exploding")
    done = place.run(TRAIN, "-m", *short, *points)
    assert done.code == 2
    assert "exploding/0" in done.err and "loss is" in done.err and "Lower optim.lr" in done.err
    assert (place.folder / "exploding" / "1" / "scores.json").is_file()
    assert not (place.folder / "exploding" / "0" / "scores.json").exists()


RECORDER = '''
"""Writes down what Hydra handed to the sweeper."""

import json
from pathlib import Path

from hydra.experimental.callback import Callback


class Recorder(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        Path(config.hydra.runtime.output_dir, "returned.json").write_text(json.dumps(job_return.return_value))
'''


def test_sweeper_is_given_the_error_rate(
    place: Any, short: tuple[str, ...], first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "recorder.py").write_text(RECORDER, encoding="utf-8")
    monkeypatch.syspath_prepend(place.folder)
    recorder = "+hydra.callbacks.recorder._target_=recorder.Recorder"
    folder = sweep(place, short, "recorded", "lora.r=2,4", "decoding.text_temperature=0.7", recorder)
    for number, same in (("0", "1"), ("1", "3")):
        returned = json.loads((folder / number / "returned.json").read_text(encoding="utf-8"))
        assert returned == scores_of(first / same)["cer"]


def test_wandb_run_per_trial_in_one_group(place: Any, short: tuple[str, ...], first: Path) -> None:
    points = ("lora.r=2", "decoding.text_temperature=0.0,0.7", "logger=wandb", "logger.mode=offline")
    folder = sweep(place, [each for each in short if each != "logger=none"], "in_wandb", *points)
    for trial in trials(folder):
        (record,) = trial.glob("wandb/offline-run-*/run-*.wandb")
        written = record.read_bytes()
        assert b"in_wandb" in written  # the group
        assert scores_of(trial)["trial"].encode() in written


def test_csv_and_no_logger(place: Any, short: tuple[str, ...], first: Path) -> None:
    folder = sweep(place, short, "loggers", "lora.r=2", "logger=csv,none", "decoding.text_temperature=0.0")
    header, *rows = (folder / "0" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert "step" in header and "train/loss" in header
    assert rows
    assert not list((folder / "1").glob("metrics.csv")) and not list(folder.glob("*/wandb"))


def test_repeats_are_sampled_apart(place: Any, short: tuple[str, ...], first: Path) -> None:
    points = ("decoding.text_temperature=1.0,0.0", "decoding.text_top_k=0", "decoding.repeats=3", "lora.r=2")
    folder = sweep(place, short, "repeats", *points)
    sampled, greedy = (scores_of(folder / number) for number in ("0", "1"))
    assert len(sampled["cer_repeats"]) == 3 and len(set(sampled["transcript_signatures"])) == 3
    assert sampled["cer"] == pytest.approx(statistics.fmean(sampled["cer_repeats"]))
    assert sampled["cer_std"] == pytest.approx(statistics.stdev(sampled["cer_repeats"]))
    rows = [json.loads(line) for line in (folder / "0" / "utterances.jsonl").read_text(encoding="utf-8").splitlines()]
    heard = [tuple(row["hypothesis"] for row in rows if row["repeat"] == repeat) for repeat in range(3)]
    assert len(set(heard)) > 1
    assert len(greedy["cer_repeats"]) == 1 and greedy["cer_std"] == 0.0


def test_evaluate_by_signature_by_folder_and_the_base(place: Any, first: Path) -> None:
    signature = scores_of(first / "1")["signature"]
    before = products(place, "transcript")
    common = ("data.eval_manifest=data/eval.tokens.jsonl", "decoding.max_new_tokens=8", "trainer.progress=false")
    for number, adapter in enumerate((signature, f"store/adapter/{signature}", "null")):
        run = (f"adapter={adapter}", "decoding.text_temperature=0.7", f"hydra.run.dir=evaluated/{number}")
        done = place.run("kimi_audio_ft.evaluate", *common, *run)
        assert done.code == 0, done.err
        assert f"CER {scores_of(place.folder / 'evaluated' / str(number))['cer']:.2%}" in done.out
    by_signature, by_folder, base = (scores_of(place.folder / "evaluated" / n) for n in "012")
    trial = scores_of(first / "1")
    assert by_signature["cer"] == by_folder["cer"] == trial["cer"]
    assert by_signature["transcript_signatures"] == by_folder["transcript_signatures"] == trial["transcript_signatures"]
    assert base["transcript_signatures"] == scores_of(first / "1", "baseline.json")["transcript_signatures"]
    assert products(place, "transcript") == before  # the sweep had decoded all of it


def test_adapter_copied_elsewhere_scores_the_same(place: Any, first: Path, tmp_path: Path) -> None:
    trial = scores_of(first / "1")
    for file in (place.store / "adapter" / trial["signature"]).glob("adapter_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    common = ("data.eval_manifest=data/eval.tokens.jsonl", "decoding.max_new_tokens=8", "trainer.progress=false")
    run = (f"adapter={tmp_path}", "decoding.text_temperature=0.7", "hydra.run.dir=evaluated/copy")
    assert place.run("kimi_audio_ft.evaluate", *common, *run).code == 0
    copy = scores_of(place.folder / "evaluated" / "copy")
    assert copy["cer"] == trial["cer"] and copy["transcript_signatures"] != trial["transcript_signatures"]


@pytest.fixture
def one_step(place: Any, short: tuple[str, ...]) -> Iterator[Callable[..., dict[str, Any]]]:
    """Trains one step with some options and returns the scores."""

    def run(*options: str) -> dict[str, Any]:
        done = place.run(TRAIN, *short, *options, "trainer.max_steps=1", "hydra.run.dir=one")
        assert done.code == 0, done.err
        return scores_of(place.folder / "one")

    yield run


def test_preset_of_the_report_trains_whisper_too(place: Any, one_step: Callable[..., dict[str, Any]]) -> None:
    scores = one_step("lora=report", "data.features=online", "lora.r=2")
    own = one_step("lora=decoder", "lora.r=2", "lora.lora_dropout=0.05")
    assert scores["trainable_parameters"] > own["trainable_parameters"]
    evaluate = (f"adapter={scores['signature']}", "data.features=online", "hydra.run.dir=whisper")
    common = ("data.eval_manifest=data/eval.tokens.jsonl", "decoding.max_new_tokens=8", "trainer.progress=false")
    assert place.run("kimi_audio_ft.evaluate", *common, *evaluate).code == 0
    assert scores_of(place.folder / "whisper")["cer"] == scores["cer"]


def test_perturbed_audio_is_trained_on_and_kept(place: Any, one_step: Callable[..., dict[str, Any]]) -> None:
    index = next((place.store / "features").glob("[!.]*/index.jsonl"))
    before = len(index.read_text(encoding="utf-8").splitlines())
    options = ("data.augment.speeds=[0.9,1.0,1.1]", "data.augment.gains_db=[-3,0]", "data.augment.time_masks=2")
    plain = one_step("lora.r=2")
    scores = one_step("lora.r=2", *options, "data.augment.channel_masks=1")
    assert scores["signature"] != plain["signature"]
    assert scores["final_train_loss"] != plain["final_train_loss"]
    # 9 recordings to train on, at every other pair of a speed and a gain
    assert len(index.read_text(encoding="utf-8").splitlines()) == before + 9 * 5
