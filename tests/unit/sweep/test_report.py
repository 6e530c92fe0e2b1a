"""The report at a sweep's end, also when trials failed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.errors import ConfigError, Refused
from kimi_audio_ft.store import product_path
from kimi_audio_ft.sweep.report import SweepReport, failed_trials
from kimi_audio_ft.sweep_folder import claim, planned_trials, record_fitting, record_jobs, trial_folders
from kimi_audio_ft.tracking.wandb import TOKEN
from tests.offline_wandb import offline_runs


@pytest.fixture
def sweep(tmp_path: Path) -> DictConfig:
    """Hydra's config of a sweep in ``tmp_path / "sweep"``."""
    return hydra_config(tmp_path / "sweep", "lora.r=2,4")


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """A command's process ends with its sweep."""
    yield
    SweepReport.conclude_failed()


def hydra_config(folder: Path, *overrides: str, **more: Any) -> DictConfig:
    asked = {"task": list(overrides), "hydra": ["hydra.mode=MULTIRUN"]}
    return OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "overrides": asked, **more}})


def trial(sweep: DictConfig, number: int, **records: Any) -> Path:
    folder = Path(sweep.hydra.sweep.dir) / str(number)
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra" / "overrides.yaml").write_text(f"- lora.r={number}\n", encoding="utf-8")
    for name, record in records.items():
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def scored(sweep: DictConfig, number: int) -> Path:
    figures = {"cer": 0.5, "wer": 0.6, "mer": 0.5, "exact_match": 0.0, "num_references": 4, "num_reference_chars": 40}
    more = {"trial": f"lora.r={number}", "params": {"lora.r": number, "decoding.text_temperature": 0.0}}
    return trial(sweep, number, scores={**figures, **more, "normalised": figures, "signature": "ab"})


def failed(sweep: DictConfig, number: int, message: str) -> Path:
    failure = {
        "trial": f"lora.r={number}",
        "error_type": "ConfigError",
        "message": message,
        "params": {},
        "command": "",
    }
    folder = trial(sweep, number, failure=failure)
    (folder / "train.log").touch()
    return folder


def jobs_of(folder: Path, *numbers: int) -> dict[int, tuple[Path, list[str]]]:
    return {number: (folder / str(number), [f"lora.r={number}"]) for number in numbers}


def test_another_sweep_in_a_folder_sets_the_records_of_the_first_aside(
    sweep: DictConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """And neither touches nor counts what the first did not make."""
    folder = Path(sweep.hydra.sweep.dir)
    SweepReport().on_multirun_start(sweep)
    outside = folder.parent / "else" / "4"
    record_jobs(folder, jobs_of(folder, 3) | {4: (outside, ["lora.r=4"])})
    old = scored(sweep, 3)
    outside.mkdir(parents=True)
    (old / "wandb").mkdir()
    theirs = scored(sweep, 7)
    SweepReport.conclude_failed()

    other = hydra_config(folder, "lora.r=8,16")
    SweepReport().on_multirun_start(other)
    assert (old / "scores.json").is_file(), "nobody knows yet whether the command makes sense"
    SweepReport.record(jobs_of(folder, 0))
    [aside] = folder.glob(".before-*")
    assert {"3", "engine.json", "multirun.yaml"} <= {path.name for path in aside.iterdir()}
    assert (aside / "3" / "scores.json").is_file() and (aside / "3" / "wandb").is_dir() and outside.is_dir()
    assert OmegaConf.load(aside / "multirun.yaml") == sweep
    assert aside.name in capsys.readouterr().out
    assert (theirs / "scores.json").is_file() and trial_folders(folder) == []


def test_what_halving_has_left_before_any_trial_is_set_aside_before_the_first_rung(sweep: DictConfig) -> None:
    folder = Path(sweep.hydra.sweep.dir)
    for config, key in ((sweep, "adapter-a"), (hydra_config(folder, "lora.r=8,16"), "adapter-b")):
        SweepReport().on_multirun_start(config)
        SweepReport.begin()
        (folder / "halving" / key).mkdir(parents=True)
        (folder / "halving.json").write_text(key, encoding="utf-8")
        SweepReport.record(jobs_of(folder, 0))
        (folder / "engine.json").unlink()  # as if it had been killed in its first rung
        theirs = scored(sweep, 7)
        SweepReport.conclude_failed()
    [aside] = folder.glob(".before-*")
    for place, key in ((aside, "adapter-a"), (folder, "adapter-b")):
        assert (place / "halving.json").read_text(encoding="utf-8") == key
        assert [path.name for path in place.glob("halving/*")] == [key]
    assert (theirs / "scores.json").is_file()


def test_the_same_sweep_again_keeps_what_it_has(sweep: DictConfig) -> None:
    folder = Path(sweep.hydra.sweep.dir)
    SweepReport().on_multirun_start(sweep)
    record_jobs(folder, jobs_of(folder, 0, 1))
    first, second = scored(sweep, 0), scored(sweep, 1)
    SweepReport.conclude_failed()
    SweepReport().on_multirun_start(sweep)
    job = hydra_config(folder, "lora.r=2", runtime={"output_dir": str(first)}, job={"num": 0})
    SweepReport().on_job_start(job)
    assert not (first / "scores.json").exists() and (second / "scores.json").exists()
    assert not list(folder.glob(".before-*"))


def test_a_run_again_counts_its_own_jobs_only(sweep: DictConfig) -> None:
    """Halving may leave fewer than before; the folders of the others stay, and are no trials of this run."""
    folder = Path(sweep.hydra.sweep.dir)
    for numbers in ((0, 1, 2), (0, 1)):
        SweepReport().on_multirun_start(sweep)
        SweepReport.record(jobs_of(folder, numbers[0]))
        SweepReport.record(jobs_of(folder, *numbers))
        for number in numbers:
            scored(sweep, number)
        assert [path.name for path in trial_folders(folder)] == [str(number) for number in numbers]
        SweepReport.conclude_failed()


def test_a_second_sweep_in_a_folder_is_refused_while_the_first_runs(sweep: DictConfig) -> None:
    with claim(Path(sweep.hydra.sweep.dir)), pytest.raises(Refused) as ended:
        SweepReport().on_multirun_start(sweep)
    assert ended.value.code == 2
    assert f"is being run (pid {os.getpid()} on " in str(ended.value.error)
    SweepReport().on_multirun_start(sweep)


@pytest.mark.parametrize("given", [["hydra.run.dir=folder"], []])
def test_a_folder_without_flock_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]) -> None:
    def missing(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    config = OmegaConf.create({"hydra": {"run": {"dir": str(tmp_path)}, "overrides": {"hydra": given}}})
    with pytest.raises(Refused) as ended:
        SweepReport().on_run_start(config)
    assert ended.value.code == 2 and f"{tmp_path}: its file system has no locks" in str(ended.value.error)


def test_single_trials_of_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "12-00-00"
    with claim(folder), claim(tmp_path / "12-00-00.2"):
        config = OmegaConf.create({"hydra": {"run": {"dir": str(folder)}, "overrides": {"hydra": []}}})
        SweepReport().on_run_start(config)
    assert config.hydra.run.dir == str(tmp_path / "12-00-00.3")


def test_end_writes_the_report(sweep: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    report = SweepReport()
    report.on_multirun_start(sweep)
    scored(sweep, 2)
    report.on_multirun_end(sweep)
    page = Path(sweep.hydra.sweep.dir).resolve() / "report.html"
    assert '<html lang="en">' in page.read_text(encoding="utf-8")
    assert f"report: {page}" in capsys.readouterr().out
    assert SweepReport.conclude_failed() is None


def trial_elsewhere(sweep: DictConfig, number: int, place: Path, link: bool = False) -> Path:
    """A scored trial that lies outside the sweep's folder; link: its folder there is a link to it."""
    folder = scored(sweep, number)
    place.parent.mkdir(exist_ok=True)
    folder.rename(place)
    if link:
        folder.symlink_to(place)
    return place


def test_a_report_of_what_has_not_changed_is_shown_again(
    sweep: DictConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    inside, recording = scored(sweep, 2), tmp_path / "a.wav"
    outside = trial_elsewhere(sweep, 3, tmp_path / "else" / "3")
    linked = trial_elsewhere(sweep, 4, tmp_path / "else" / "4", link=True)
    folder = Path(sweep.hydra.sweep.dir)
    record_jobs(folder, jobs_of(folder, 2, 4) | {3: (outside, ["lora.r=3"])})
    recording.write_bytes(b"")
    line = {"id": "a", "reference": "语音", "hypothesis": "语", "cer": 0.5, "audio": str(recording)}
    line |= {"edits": 1, "chars": 2, "normalised_edits": 1, "normalised_chars": 2}
    for one in (inside, outside, linked):
        (one / "utterances.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    os.mkfifo(inside / "pipe")  # whoever reads it waits
    cfg = outside / "cfg"  # hydra.output_subdir
    (outside / ".hydra").rename(cfg)
    (cfg / "hydra.yaml").touch()
    page, merged = folder / "report.html", folder / "combinations" / "mean" / "model.safetensors"
    merged.parent.mkdir(parents=True)

    def told(margin: float | None = None) -> str:
        SweepReport(margin=margin).on_multirun_end(sweep)
        return capsys.readouterr().out

    first = told()
    again = first.rstrip() + " (nothing has changed since it was written)\n"
    before = page.stat().st_mtime_ns
    unread: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a checkpoint of its trials": lambda: merged.write_bytes(b"\0"),
        "another sweep's adapter": lambda: product_path("adapter", "cd").mkdir(parents=True),
    }
    for name, change in unread.items():
        change()
        assert told() == again, name
    assert page.stat().st_mtime_ns == before

    page.with_name("trials.json").touch()
    assert told() == first, "one of its files was touched, so all were made again"
    changes: dict[str, Callable[[], object]] = {
        "scores": lambda: rewrite(inside / "scores.json"),
        "scores outside": lambda: rewrite(outside / "scores.json"),
        "scores behind a link": lambda: rewrite(linked / "scores.json"),
        "config": lambda: (cfg / "config.yaml").write_text("seed: 2", encoding="utf-8"),
        "report": lambda: page.write_text("mine", encoding="utf-8"),
        "recording": recording.unlink,
        "its adapter": product_path("adapter", "ab").mkdir,
        "colours": lambda: monkeypatch.setenv("NO_COLOR", "1"),
    }
    for name, change in changes.items():
        change()
        assert not told().endswith(again[-20:]), name
        assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE"), name
    assert not told(margin=4).endswith(again[-20:])
    assert told(margin=4).endswith(again[-20:])


def rewrite(path: Path) -> None:
    """Other scores."""
    path.write_text(path.read_text(encoding="utf-8").replace("0.6", "0.7"), encoding="utf-8")


def test_a_leaderboard_that_is_shown_again_has_nothing_that_a_terminal_obeys_but_its_style(
    sweep: DictConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may write in the folder may have changed what was kept."""
    scored(sweep, 2)
    SweepReport().on_multirun_end(sweep)
    kept = Path(sweep.hydra.sweep.dir) / ".report.json"
    record = json.loads(kept.read_text(encoding="utf-8"))
    record["printed"] = "\x1b[1;32mbest\x1b[0m\n\x1b]0;title\x07\x1b[2Jrest\n"
    kept.write_text(json.dumps(record), encoding="utf-8")
    capsys.readouterr()
    SweepReport().on_multirun_end(sweep)
    told = capsys.readouterr().out
    assert told.startswith("\x1b[1;32mbest\x1b[0m\n\\x1b]0;title\\x07\\x1b[2Jrest\nreport: "), told


def test_a_closed_terminal_costs_no_report(sweep: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(sweep, 2)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as closed, monkeypatch.context() as patched:
        patched.setattr("sys.stdout", closed)
        with pytest.raises(SystemExit) as ended:
            SweepReport().on_multirun_end(sweep)
    assert ended.value.code == 1
    assert {path.name for path in Path(sweep.hydra.sweep.dir).glob("*.*")} >= {"report.html", "trials.csv"}


def test_the_report_is_written_in_the_language_asked_for(sweep: DictConfig) -> None:
    report = SweepReport(language="zh")
    report.on_multirun_start(sweep)
    scored(sweep, 2)
    report.on_multirun_end(sweep)
    page = Path(sweep.hydra.sweep.dir) / "report.html"
    assert '<html lang="zh-CN">' in page.read_text(encoding="utf-8")
    SweepReport()
    with pytest.raises(ConfigError, match="language='fr'"):
        SweepReport(language="fr")


def test_the_report_recommends_by_the_margin_asked_for(sweep: DictConfig) -> None:
    report = SweepReport(margin=12.5)
    report.on_multirun_start(sweep)
    scored(sweep, 2)
    report.on_multirun_end(sweep)
    told = json.loads((Path(sweep.hydra.sweep.dir) / "trials.json").read_text(encoding="utf-8"))
    assert told["statistics"]["method"]["margin"] == 0.125
    for wrong in (-1, 100, "3%", True):
        with pytest.raises(ConfigError, match=r"hydra\.callbacks\.report\.margin=.*: must be a percentage"):
            SweepReport(margin=wrong)  # type: ignore[arg-type]
    SweepReport()


def test_a_report_that_cannot_be_made_is_a_failure(
    sweep: DictConfig, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    report = SweepReport()
    report.on_multirun_start(sweep)
    trial(sweep, 1)
    report.on_multirun_end(sweep)
    assert "no trial is scored" in caplog.text
    (scored(sweep, 2) / "scores.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        report.on_multirun_end(sweep)
    assert ended.value.code == 1
    assert "no report: " in caplog.text
    assert "report: /" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("lora=glob(zzz*)", "no choice of lora has such a name"),
        ("lora.r=range(4,2)", "one of its options has no value"),
    ],
)
def test_a_sweep_without_trials_is_an_error(tmp_path: Path, override: str, why: str) -> None:
    empty = hydra_config(tmp_path / "sweep", override)
    SweepReport().on_multirun_start(empty)
    with pytest.raises(Refused) as ended:
        SweepReport().on_multirun_end(empty)
    assert ended.value.code == 2 and why in str(ended.value.error)


def test_a_failure_names_a_log_that_exists(sweep: DictConfig) -> None:
    for number, log in enumerate(("mine.log", None)):
        folder = failed(sweep, number, "wrong")
        (folder / "train.log").unlink()
        if log is not None:  # hydra.job.name=mine
            (folder / log).touch()
    lines = failed_trials(Path(sweep.hydra.sweep.dir))
    assert [line.split()[0].rpartition("/")[2] for line in lines[1:]] == ["mine.log", "failure.json"]


def test_the_leaderboard_is_printed_though_the_report_cannot_be_written(
    sweep: DictConfig, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    report = SweepReport()
    report.on_multirun_start(sweep)
    scored(sweep, 2)
    (Path(sweep.hydra.sweep.dir) / "trials.csv").mkdir()
    with pytest.raises(SystemExit):
        report.on_multirun_end(sweep)
    assert "lora.r=2" in capsys.readouterr().out and "no report" in caplog.text


def test_failed_trials_are_named_once_and_in_the_report(sweep: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    SweepReport().on_multirun_start(sweep)
    for number in (0, 1, 11):
        scored(sweep, number)
    last, first = failed(sweep, 10, "second\nwith details"), failed(sweep, 2, "first: wrong")
    told = SweepReport.conclude_failed()
    assert told is not None
    lines = told.splitlines()
    assert lines[0] == "2 of 5 trials failed:"
    assert lines[1:3] == [f"  {first}/train.log (lora.r=2): first: wrong", f"  {last}/train.log (lora.r=10): second"]
    assert "first: wrong" in (Path(sweep.hydra.sweep.dir) / "report.html").read_text(encoding="utf-8")
    assert "first: wrong" not in capsys.readouterr().out  # the error message says it
    assert SweepReport.conclude_failed() is None  # told once


def test_failed_trials_have_the_names_that_tell_them_apart(sweep: DictConfig) -> None:
    SweepReport().on_multirun_start(sweep)
    given = {number: ["seed=1", f"data.guard_manifests={{a:{number}.jsonl}}"] for number in range(2)}
    SweepReport.record({number: (failed(sweep, number, "wrong"), given[number]) for number in given})
    lines = (SweepReport.conclude_failed() or "").splitlines()
    assert [line.partition("train.log ")[2] for line in lines[1:3]] == [
        f"(guard_manifests={{a:{number}.jsonl}}): wrong" for number in given
    ]


def test_many_failed_trials_are_counted(sweep: DictConfig) -> None:
    SweepReport().on_multirun_start(sweep)
    for number in range(30):
        failed(sweep, number, "wrong")
    lines = (SweepReport.conclude_failed() or "").splitlines()
    assert lines[0] == "30 of 30 trials failed:" and len([line for line in lines if "train.log" in line]) == 20
    assert lines[21].startswith("  and 10 more")


def test_failures_that_a_sweeper_tolerates_are_told_at_the_end(
    sweep: DictConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    report = SweepReport()
    report.on_multirun_start(sweep)
    scored(sweep, 0)
    failed(sweep, 1, "wrong")
    report.on_multirun_end(sweep)
    assert "1/train.log (lora.r=1): wrong" in capsys.readouterr().out


def test_an_interrupted_sweep_says_how_far_it_was(sweep: DictConfig) -> None:
    assert SweepReport.conclude_interrupted() == ""
    SweepReport().on_multirun_start(sweep)
    scored(sweep, 0)
    assert SweepReport.conclude_interrupted() == f"1 trial is done in {sweep.hydra.sweep.dir}"
    assert SweepReport.conclude_interrupted() == ""


def test_how_many_trials_there_would_have_been_is_told_where_it_is_known(sweep: DictConfig) -> None:
    folder = Path(sweep.hydra.sweep.dir)
    SweepReport().on_multirun_start(sweep)
    assert planned_trials(folder) is None
    record_jobs(folder, jobs_of(folder, *range(6)))
    record_jobs(folder, jobs_of(folder, 6, 7))  # a sweeper launches again
    record_fitting(folder, 12.0)
    assert planned_trials(folder) == 8
    scored(sweep, 0)
    failed(sweep, 1, "wrong")
    told = SweepReport.conclude_interrupted().splitlines()
    assert told[:2] == [f"1 of 8 trials are done in {folder}", "1 of 8 trials failed:"]
    SweepReport().on_multirun_start(hydra_config(folder, "lora.r=8"))
    SweepReport.record(jobs_of(folder, 0))
    assert planned_trials(folder) == 1, "another sweep in this folder counts its own"


def test_error_that_is_no_trials(sweep: DictConfig) -> None:
    assert SweepReport.conclude_failed() is None  # no sweep at all
    SweepReport().on_multirun_start(sweep)
    assert SweepReport.conclude_failed() is None  # a sweep whose values Hydra refused before any trial


def test_start_writes_what_was_asked_for(sweep: DictConfig) -> None:
    """Hydra's own sweeper does too, but Optuna's does not, and the report's command comes from it."""
    SweepReport().on_multirun_start(sweep)
    assert OmegaConf.load(Path(sweep.hydra.sweep.dir) / "multirun.yaml") == sweep


def logged(folder: Path, **logger: Any) -> None:
    """The config that Hydra writes beside a trial, as far as the report reads it, and W&B's mark of what it records."""
    OmegaConf.save({"logger": logger}, folder / ".hydra" / "config.yaml")
    if logger["kind"] == "wandb":
        (folder / TOKEN).write_text("a1", encoding="utf-8")


def test_wandb_gets_the_report_of_the_trials_that_it_recorded(sweep: DictConfig) -> None:
    report = SweepReport()
    report.on_multirun_start(sweep)
    logged(scored(sweep, 2), kind="none")
    logged(scored(sweep, 3), kind="wandb", project="p", mode="offline", tags=["night"])
    report.on_multirun_end(sweep)
    folder = Path(sweep.hydra.sweep.dir)
    (stored,) = offline_runs(folder / "report")
    assert (stored.run.project, stored.run.run_group, stored.run.job_type) == ("p", str(folder), "report")
    assert list(stored.run.tags) == ["night"] and stored.exit_code == 0
    for name in ("report.html", "trials.csv", "trials.json"):
        assert stored.artifact[name].read_bytes() == (folder / name).read_bytes()
        assert stored.artifact[name].is_relative_to(folder)
    table = stored.table("leaderboard")
    assert table["columns"][:5] == ["rank", "kind", "name", "trial", "lora.r"]
    names = [path.parent.name for path in sorted(folder.glob("*/scores.json"))]
    assert [row[2] for row in table["data"]] == names
    assert [row[:2] + row[3:5] for row in table["data"]] == [[1, "trial", "lora.r=2", 2], [1, "trial", "lora.r=3", 3]]
    cer = table["columns"].index("cer")
    assert [row[cer] for row in table["data"]] == [0.5, 0.5]
    assert {key: stored.summary[key] for key in ("num_trials", "num_scored", "best_cer")} == {
        "num_trials": 2,
        "num_scored": 2,
        "best_cer": 0.5,
    }
    assert "cer" not in stored.summary  # else it would be a point among the trials
    report.on_multirun_start(sweep)
    report.on_multirun_end(sweep)
    assert len(list(folder.glob("report/wandb/offline-run-*"))) == 1  # the same sweep again is not uploaded twice


@pytest.mark.parametrize("kind", ["none", "csv"])
def test_wandb_gets_nothing_that_was_not_meant_for_it(sweep: DictConfig, kind: str) -> None:
    report = SweepReport()
    report.on_multirun_start(sweep)
    logged(scored(sweep, 2), kind=kind)
    report.on_multirun_end(sweep)
    assert not (Path(sweep.hydra.sweep.dir) / "report").exists()


def test_a_broken_record_for_wandb_is_a_warning(sweep: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
    report = SweepReport()
    report.on_multirun_start(sweep)
    logged(scored(sweep, 2), kind="wandb", no_such_option=1)
    report.on_multirun_end(sweep)
    assert "W&B: the report is not uploaded" in caplog.text
    assert (Path(sweep.hydra.sweep.dir) / "report.html").is_file()
