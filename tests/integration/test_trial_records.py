"""One trial's surroundings: what a sweeper is given, the loggers, repeats, and saved adapters decoded again."""

from __future__ import annotations

import json
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.store.features import RECORD
from tests.integration.conftest import SHORT, Workplace
from tests.trials_json import scores_of

TRAIN = "kimi_audio_ft.train"
EVALUATE = (
    *("kimi_audio_ft.evaluate", "data.eval_manifest=data/eval.tokens.jsonl"),
    *("decoding.max_new_tokens=8", "trainer.progress=false"),
)

pytestmark = pytest.mark.slow


RECORDER = '''
"""Writes down what Hydra handed to the sweeper."""

import json
import signal
from pathlib import Path

from hydra.experimental.callback import Callback


class Recorder(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        Path(config.hydra.runtime.output_dir, "returned.json").write_text(json.dumps(job_return.return_value))
'''


def test_sweeper_is_given_the_error_rate(place: Workplace, first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / "recorder.py").write_text(RECORDER, encoding="utf-8")
    monkeypatch.syspath_prepend(place.folder)
    recorder = "+hydra.callbacks.recorder._target_=recorder.Recorder"
    folder = place.sweep("recorded", "lora.r=2,4", "decoding.text_temperature=0.7", recorder)
    for number, same in (("0", "1"), ("1", "3")):
        returned = json.loads((folder / number / "returned.json").read_text(encoding="utf-8"))
        assert returned == scores_of(first / same)["cer"]


def test_csv_and_no_logger(place: Workplace, first: Path) -> None:
    folder = place.sweep("loggers", "lora.r=2", "logger=csv,none", "decoding.text_temperature=0.0")
    header, *rows = (folder / "0" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert "step" in header and "train/loss" in header
    assert rows
    assert not list((folder / "1").glob("metrics.csv")) and not list(folder.glob("*/wandb"))


def test_repeats_are_sampled_apart(place: Workplace, first: Path) -> None:
    points = ("decoding.text_temperature=1.0,0.0", "decoding.text_top_k=0", "decoding.repeats=3", "lora.r=2")
    folder = place.sweep("repeats", *points)
    sampled, greedy = (scores_of(folder / number) for number in ("0", "1"))
    assert len(sampled["cer_repeats"]) == 3 and len(set(sampled["transcript_signatures"])) == 3
    assert sampled["cer"] == pytest.approx(statistics.fmean(sampled["cer_repeats"]))
    assert sampled["cer_std"] == pytest.approx(statistics.stdev(sampled["cer_repeats"]))
    rows = read_jsonl(folder / "0" / "utterances.jsonl")
    heard = [tuple(row["hypothesis"] for row in rows if row["repeat"] == repeat) for repeat in range(3)]
    assert len(set(heard)) > 1
    assert len(greedy["cer_repeats"]) == 1 and greedy["cer_std"] == 0.0


def test_evaluate_by_signature_by_folder_and_the_base(place: Workplace, first: Path) -> None:
    signature = scores_of(first / "1")["signature"]
    before = place.products("transcript")
    for number, adapter in enumerate((signature, f"store/adapter/{signature}", "null")):
        run = (f"adapter={adapter}", "decoding.text_temperature=0.7", f"hydra.run.dir=evaluated/{number}")
        said = place.succeed(*EVALUATE, *run)
        assert f"CER {scores_of(place.folder / 'evaluated' / str(number))['cer']:.2%}" in said
    by_signature, by_folder, base = (scores_of(place.folder / "evaluated" / n) for n in "012")
    trial = scores_of(first / "1")
    assert by_signature["cer"] == by_folder["cer"] == trial["cer"]
    assert by_signature["transcript_signatures"] == by_folder["transcript_signatures"] == trial["transcript_signatures"]
    assert base["transcript_signatures"] == scores_of(first / "1", "baseline.json")["transcript_signatures"]
    assert place.products("transcript") == before  # the sweep had decoded all of it


def test_adapter_copied_elsewhere_scores_the_same(place: Workplace, first: Path, tmp_path: Path) -> None:
    trial = scores_of(first / "1")
    for file in (place.store / "adapter" / trial["signature"]).glob("adapter_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    run = (f"adapter={tmp_path}", "decoding.text_temperature=0.7", "hydra.run.dir=evaluated/copy")
    place.succeed(*EVALUATE, *run)
    copy = scores_of(place.folder / "evaluated" / "copy")
    assert copy["cer"] == trial["cer"] and copy["transcript_signatures"] != trial["transcript_signatures"]


OneStep = Callable[..., dict[str, Any]]


@pytest.fixture
def one_step(place: Workplace) -> OneStep:
    """Trains one step with some options and returns the scores."""

    def run(*options: str) -> dict[str, Any]:
        place.succeed(TRAIN, *SHORT, *options, "trainer.max_steps=1", "hydra.run.dir=one")
        return scores_of(place.folder / "one")

    return run


def test_preset_of_the_report_trains_whisper_too(place: Workplace, one_step: OneStep) -> None:
    scores = one_step("lora=report", "data.features=online", "lora.r=2")
    own = one_step("lora=decoder", "lora.r=2", "lora.lora_dropout=0.05")
    assert scores["trainable_parameters"] > own["trainable_parameters"]
    evaluate = (f"adapter={scores['signature']}", "data.features=online", "hydra.run.dir=whisper")
    place.succeed(*EVALUATE, *evaluate)
    assert scores_of(place.folder / "whisper")["cer"] == scores["cer"]
    meta = json.loads((place.store / "adapter" / scores["signature"] / "product.json").read_text(encoding="utf-8"))
    line = read_jsonl(place.folder / "data" / "eval.jsonl")[0]
    assert meta["prompt"] == line["conversation"][0]["content"]
    audio = f"audio={place.folder / 'data' / line['conversation'][1]['content']}"
    done = place.run("kimi_audio_ft.transcribe", audio, "out=texts", evaluate[0])
    assert done.code == 2 and "changes the Whisper encoder" in done.err and "data.features=online" in done.err
    assert "looking at" not in done.out, "it is refused before anything is encoded"


def test_perturbed_audio_is_trained_on_and_kept(place: Workplace, one_step: OneStep) -> None:
    index = next((place.store / "features").glob("[!.]*/index.bin"))
    before = index.stat().st_size
    options = ("data.augment.speeds=[0.9,1.0,1.1]", "data.augment.gains_db=[-3,0]", "data.augment.time_masks=2")
    plain = one_step("lora.r=2")
    scores = one_step("lora.r=2", *options, "data.augment.channel_masks=1")
    assert scores["signature"] != plain["signature"]
    assert scores["final_train_loss"] != plain["final_train_loss"]
    # 9 recordings to train on, at every other pair of a speed and a gain
    assert index.stat().st_size == before + 9 * 5 * RECORD.itemsize


def test_interrupted_trial_has_not_failed(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from kimi_audio_ft.training import checkpoint

    handler = signal.getsignal(signal.SIGINT)  # Lightning ignores further Ctrl-C
    monkeypatch.setattr(checkpoint, "write_checkpoint", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    before = place.products("adapter")
    try:
        done = place.run(TRAIN, *SHORT, "lora.r=3", "trainer.save_every=1", "hydra.run.dir=interrupted")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert done.code == 130
    assert "interrupted" in done.err and "Resume with:" in done.err and "Traceback" not in done.err
    assert not list((place.folder / "interrupted").glob("*.json"))
    assert place.products("adapter") == before
