"""The choice of a sweep on data that no trial has seen: decoded after it, or by hand, and never by a trial."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kimi_audio_ft.combine.combinations import Combination, confirmed
from kimi_audio_ft.combine.sources import Source
from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import read_json_object, read_jsonl
from kimi_audio_ft.sweep.confirm import decoding
from kimi_audio_ft.sweep.confirm.__main__ import main
from multirun_analysis.analysis import load_sweep
from tests.consensus import consensus
from tests.integration.conftest import Workplace
from tests.trials_json import hypotheses_of, scores_of

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


@pytest.fixture(scope="module")
def said(place: Workplace, data: Path) -> str:
    """What a sweep with a test and a guard set has printed."""
    return place.succeed(*SWEEP, TEST, GUARD)


@pytest.fixture(scope="module")
def tested(place: Workplace, said: str) -> Path:
    """Its folder."""
    return place.folder / "sweep"


def test_a_sweep_confirms_its_choice_on_what_no_trial_sees(place: Workplace, data: Path, said: str) -> None:
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
    assert place.run("kimi_audio_ft.sweep.confirm", "sweep").code == 2
    assert (unseen / "mine.json").is_file(), "a folder that is not ours was taken away"
    (unseen / "mine.json").rename(unseen / "record.json")


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signals as they were: the command, run in this process, takes them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Signalled(io.StringIO):
    """An output at whose first words of decoding a signal comes."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        if "decoding on unseen data" in text:
            signal.raise_signal(self.number)
        return super().write(text)


def test_a_sweep_whose_hours_end_while_unseen_data_are_decoded_is_not_done(place: Workplace, tested: Path) -> None:
    for name in read_json_object(tested / "unseen" / "test" / "0" / "scores.json", "")["transcript_signatures"]:
        shutil.rmtree(place.store / "transcript" / name)
    done = place.run(*SWEEP, TEST, GUARD, "hydra.launcher.hours=1e-9")
    assert done.code == os.EX_TEMPFAIL and "not all was decoded on unseen data" in done.out + done.err, done.err
    assert "Resume with:" in done.err
    place.succeed("multirun_analysis", "sweep", "--confirm")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_confirmation_is_made_good_by_the_next(
    place: Workplace, tested: Path, handlers: None, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    record = read_json_object(tested / "unseen" / "record.json", "")
    for name in read_json_object(tested / "unseen" / "test" / "0" / "scores.json", "")["transcript_signatures"]:
        shutil.rmtree(place.store / "transcript" / name)
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(place.store))
    monkeypatch.chdir(place.folder)
    err = io.StringIO()
    with contextlib.redirect_stdout(Signalled(number)), contextlib.redirect_stderr(err):
        assert main(["sweep"]) == 130
    assert err.getvalue() == "interrupted; what is decoded is kept, and the same command goes on\n"
    assert read_json_object(tested / "unseen" / "record.json", "") == record, "what was shown before is still there"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["sweep"]) == 0
    assert "(3 utterances)" in out.getvalue() and read_json_object(tested / "unseen" / "record.json", "") == record


def test_a_full_disk_is_told_and_the_folder_is_still_ours(
    place: Workplace, tested: Path, disk_of: Callable[[int], Path]
) -> None:
    sweep = shutil.copytree(tested, disk_of(1024) / "sweep", ignore=shutil.ignore_patterns("unseen", "*.html", "*.log"))
    with (sweep / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(1024))
    done = place.run("kimi_audio_ft.sweep.confirm", str(sweep))
    assert done.code == 2 and "the disk is full" in done.err, done.err
    (sweep / "filler").unlink()
    assert place.run("kimi_audio_ft.sweep.confirm", str(sweep)).code == 0
    assert read_json_object(sweep / "unseen" / "record.json", "")["test"]["trials"] == ["0"]


def test_paths_are_from_where_the_sweep_was_started(place: Workplace, tested: Path) -> None:
    other = Workplace(place.folder / "elsewhere")
    other.folder.mkdir()
    (other.folder / "store").symlink_to(place.store)
    record, made = read_json_object(tested / "unseen" / "record.json", ""), place.products("transcript")
    assert other.run("kimi_audio_ft.sweep.confirm", "../sweep").code == 0
    assert read_json_object(tested / "unseen" / "record.json", "") == record
    done = other.run("kimi_audio_ft.sweep.confirm", "../sweep", "--manifest", "../data/eval1.tokens.jsonl")
    assert done.code == 0 and place.products("transcript") == made, done.err
    named = read_json_object(tested / "unseen" / "record.json", "")["test"]
    assert Path(named["manifest"]).resolve() == place.folder / "data/eval1.tokens.jsonl"
    assert named["identity"] == record["test"]["identity"] and named["looks"] == record["test"]["looks"]


@pytest.mark.parametrize("name", ["train", "eval0"])
def test_a_manifest_that_was_edited_since_is_refused(
    place: Workplace, tested: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows then whether what it held before is in the test set."""
    path, record = place.folder / f"data/{name}.tokens.jsonl", (tested / "unseen" / "record.json").read_bytes()
    before = path.read_bytes()
    path.write_bytes(b"".join(before.splitlines(keepends=True)[1:]))
    done = place.run("kimi_audio_ft.sweep.confirm", "sweep")
    with monkeypatch.context() as patch:
        patch.chdir(place.folder)
        patch.setenv("KIMI_AUDIO_FT_STORE", str(place.store))
        analysis = load_sweep(Path("sweep"))
        first, second = analysis.sweep.trials
        for source, seen in ((Source(second), 1), (Source(first, mean=Path("mean"), parts=(second, first)), 1)):
            combined = Combination({"name": "some"}, (source,))
            with pytest.raises(DataError, match=rf"{name}\.tokens\.jsonl: has changed since trial {seen} ran"):
                confirmed(analysis, combined, Path("combined"))
    path.write_bytes(before)
    assert done.code == 2 and f"data/{name}.tokens.jsonl: has changed since trial 0 ran" in done.err, done.err
    assert (tested / "unseen" / "record.json").read_bytes() == record


def test_what_is_tested_is_neither_trained_on_nor_chosen_by(place: Workplace, data: Path) -> None:
    for value, problem in (
        ("data/train.tokens.jsonl", "trains on a recording that is tested, data/train.tokens.jsonl:1"),
        ("data/eval.tokens.jsonl", "evaluates a recording that is tested, data/eval.tokens.jsonl:1"),
        ("nowhere.jsonl", "data.test_manifest='nowhere.jsonl': must name a pretokenized manifest, and there is no"),
    ):
        done = place.run(SWEEP[0], *SWEEP[2:8], SWEEP[10], "lora.r=2", f"data.test_manifest={value}")
        assert done.code == 2 and problem in done.err, done.err


def test_texts_that_were_not_made_are_an_error_and_no_look(
    place: Workplace, tested: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when the store loses them meanwhile; of a sweep that cannot be written the tasks lie elsewhere."""
    asked: list[tuple[str, Path]] = []

    def make_nothing(
        settings: LauncherConfig, units: object, untrained: object, folder: Path, *_: object, **__: object
    ) -> None:
        asked.append((settings.executor, folder))

    record, multirun = (tested / "unseen" / "record.json").read_bytes(), tested / "multirun.yaml"
    before = multirun.read_text(encoding="utf-8")
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(place.store))
    monkeypatch.setattr(decoding, "make_units", make_nothing)
    analysis = load_sweep(Path("sweep"))
    chosen = Combination({"name": "lost"}, tuple(Source(trial, 0.9, 3) for trial in analysis.sweep.trials))
    said = r"data/eval1\.tokens\.jsonl: its texts by trial 0 are not in the store.*Run the same command again"
    with pytest.raises(DataError, match=said):
        confirmed(analysis, chosen, Path("combined"), "slurm")
    assert "data/eval1.tokens.jsonl (3 utterances), by executor=slurm\n" in capsys.readouterr().out
    multirun.write_text(before.replace(LauncherConfig._target_, "another.Launcher"), encoding="utf-8")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "sweep" and access(path, mode))
    with pytest.raises(DataError, match=said):
        confirmed(analysis, chosen, Path("combined"))
    multirun.write_text(before, encoding="utf-8")
    assert "by executor=local in place of the sweep's launcher another.Launcher, which" in capsys.readouterr().out
    assert [(executor, folder.name) for executor, folder in asked] == [("slurm", "sweep"), ("local", "combined")]
    assert (tested / "unseen" / "record.json").read_bytes() == record


def test_a_combination_is_made_there_too(place: Workplace, tested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the evaluation set; it counts as a look at the test set. The last one here, as others count looks too."""
    with monkeypatch.context() as patch:
        patch.chdir(place.folder)
        patch.setenv("KIMI_AUDIO_FT_STORE", str(place.store))
        analysis = load_sweep(Path("sweep"))
        source = Source(analysis.sweep.trials[1], temperature=0.7, samples=3)
        facts = {"name": "some", "kind": "samples", "trials": ["1"], "decodings": 3, "adapters": 1}
        found = confirmed(analysis, Combination(facts, (source,)), Path("combined"))
        shown = load_sweep(Path("sweep")).unseen.looks
    assert found is not None and found.looks == shown == 2
    assert (place.folder / found.manifest).resolve() == place.folder / "data/eval1.tokens.jsonl"
    single = scores_of(tested / "unseen" / "test" / "0")["cer"]
    assert (found.trial, found.single) == ("0", single)
    assert found.rate == scores_of(place.folder / "combined" / "test" / "some")["cer"]
    assert found.difference == pytest.approx(found.rate - single)
    made, adapter = place.products("transcript"), scores_of(tested / "1")["signature"]
    sampled = ("decoding.max_new_tokens=4", "decoding.text_temperature=0.7", "decoding.repeats=3")
    out = ("trainer.progress=false", "hydra.run.dir=samples")
    place.succeed(
        "kimi_audio_ft.evaluate", f"adapter={adapter}", f"data.eval_manifest={found.manifest}", *sampled, *out
    )
    assert place.products("transcript") == made
    samples: dict[str, list[str]] = {}
    for row in read_jsonl(place.folder / "samples" / "utterances.jsonl"):
        samples.setdefault(row["id"], []).append(row["hypothesis"])
    assert hypotheses_of(place.folder / "combined" / "test" / "some") == {
        key: consensus(some) for key, some in samples.items()
    }
