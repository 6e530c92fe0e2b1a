"""A sweep's folder: its record (which trials it has and where, the time of its trainings), and who runs it now.

The record holds what the trials' folders do not: a trial has no folder until it begins, and the adapters of a pack
share their time, so their own figures do not add up.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import locked, read_json_object, write_json

# In the sweep's folder: its record, and what successive halving decided.
LEDGER, HALVING = "engine.json", "halving.json"
# In a trial's folder: its utterances, and those of the base alone under its decoding.
UTTERANCES, BASE_UTTERANCES = "utterances.jsonl", "baseline_utterances.jsonl"
# What was decoded after the sweep, on data that no trial has seen: a folder for each set.
UNSEEN = "unseen"
UNSEEN_RECORD = f"{UNSEEN}/record.json"
# Records of adapters that halving trains before it is known which trials there will be.
OF_ADAPTERS = "halving"
# What python -m kimi_audio_ft.combine makes of its trials.
COMBINATIONS = "combinations"
COMBINATIONS_RECORD = f"{COMBINATIONS}/combinations.json"
# What a trial writes into its folder; .hydra is Hydra's own.
RECORDS = ("scores.json", "baseline.json", "failure.json", UTTERANCES, BASE_UTTERANCES, "curves.jsonl")
# Hydra's own folder in a trial's, unless hydra.output_subdir gives it another name, or null: there is none then.
_HYDRA = ".hydra"
RUN_WITH_CONFIG = "Run the sweep again, without hydra.output_subdir=null"
"""The remedy where Hydra has written no config."""
# What marks a trial's folder where no record names it.
_MARKS = (_HYDRA, "scores.json", "failure.json")
# The report of a sweep, and what it was made of.
TRIALS = "trials.json"
REPORT, MADE_OF = ("report.html", "trials.csv", TRIALS), ".report.json"
_RUNNING = ".running"


def record_jobs(sweep_dir: Path, jobs: Mapping[int, tuple[Path, Sequence[str]]], anew: bool = False) -> None:
    """Add jobs by number, with their folders and overrides, before they begin; a sweeper may launch several times.

    Args:
        anew: forget the jobs of an earlier run, of which halving may have left others.
    """
    with _changed(sweep_dir) as record:
        named = record["jobs"] = {} if anew else record.get("jobs", {})
        for number, (folder, overrides) in jobs.items():
            named[str(number)] = {"folder": os.path.relpath(folder, sweep_dir), "overrides": list(overrides)}
        record["trials"] = len(named)


def record_fitting(sweep_dir: Path, seconds: float) -> None:
    """Add the time in which a launch trained anything."""
    with _changed(sweep_dir) as record:
        record["fitting_seconds"] = round(record.get("fitting_seconds", 0.0) + seconds, 1)


def recommended_trial(sweep_dir: Path) -> tuple[str | None, Path]:
    """Signature of the adapter that a finished sweep recommends (None: the base alone), and that trial's folder.

    DataError: the sweep has no trials.json, or it names no trial.
    """
    path, remedy = sweep_dir / TRIALS, f"Run python -m multirun_analysis {sweep_dir}, which writes it"
    document = read_json_object(path, remedy)
    entries = [*document.get("trials", []), *document.get("baselines", [])]
    found = next((entry for entry in entries if entry.get("recommended")), None)
    if found is None or "folder" not in found.get("paths", {}):
        raise DataError(path, "names no recommended trial", remedy)
    adapter = None if found.get("kind") == "baseline" else str(found["signature"])
    return adapter, sweep_dir / str(found["paths"]["folder"])


def planned_trials(sweep_dir: Path) -> int | None:
    """Number of trials that were launched so far, begun or not; None where that was not recorded."""
    number = read_record(sweep_dir).get("trials")
    return None if number is None else int(number)


def trial_folders(sweep_dir: Path) -> list[Path]:
    """Folders of the sweep's trials that have begun, by their numbers; where nothing is recorded, all that look so."""
    jobs = read_record(sweep_dir).get("jobs")
    if jobs is None:
        found = filter(is_trial, sweep_dir.glob("*"))
        return sorted(found, key=lambda path: (not path.name.isdecimal(), len(path.name), path.name))
    return [folder for number in sorted(jobs, key=int) if (folder := sweep_dir / jobs[number]["folder"]).is_dir()]


def hydras_folder(trial: Path) -> Path:
    """Where Hydra has written a trial's config, given its folder; there may be none."""
    usual = trial / _HYDRA
    if usual.is_dir():
        return usual
    return next((path.parent for path in trial.glob("*/hydra.yaml")), usual)


def is_trial(folder: Path) -> bool:
    """Whether a folder looks like a trial's."""
    return folder.is_dir() and any((folder / mark).exists() for mark in _MARKS)


def read_record(sweep_dir: Path) -> dict[str, Any]:
    """The sweep's record; empty where there is none."""
    path = sweep_dir / LEDGER
    return read_json_object(path, "Run the sweep again") if path.is_file() else {}


@contextmanager
def _changed(sweep_dir: Path) -> Iterator[dict[str, Any]]:
    """The record, written back; launchers with processes of their own record jobs at the same time."""
    with locked(sweep_dir / f".{LEDGER}.lock"):
        record = read_record(sweep_dir)
        yield record
        write_json(sweep_dir / LEDGER, record)


def set_aside(sweep_dir: Path, multirun: str) -> Path | None:
    """Move what an earlier, other sweep has recorded here into a folder of its own; returns that, or None.

    Folders that its record does not name, such as another program's, and trials elsewhere stay where they are.

    Args:
        multirun: content of its multirun.yaml.
    """
    has_trials = (sweep_dir / LEDGER).is_file()
    has_adapters = any(sweep_dir.glob(f"{OF_ADAPTERS}/adapter-*"))  # the first that halving leaves
    if not has_trials and not has_adapters:
        return None
    aside = sweep_dir / time.strftime(".before-%Y%m%dT%H%M%S")
    trials = trial_folders(sweep_dir) if has_trials else []
    places = [Path(os.path.relpath(path, sweep_dir)).parts for path in trials]
    names = [parts[0] for parts in places if parts and parts[0] != os.pardir]
    aside.mkdir(exist_ok=True)
    later = {UNSEEN: UNSEEN_RECORD, COMBINATIONS: COMBINATIONS_RECORD}
    ours = [folder for folder, mark in later.items() if (sweep_dir / mark).is_file()]
    ours += [OF_ADAPTERS] if has_adapters else []
    for name in dict.fromkeys([*names, *REPORT, "report", MADE_OF, *ours, LEDGER, HALVING]):
        with suppress(FileNotFoundError):
            (sweep_dir / name).rename(aside / name)
    (aside / "multirun.yaml").write_text(multirun, encoding="utf-8")
    return aside


def clear_trial(folder: Path) -> None:
    """Remove what an earlier run of a trial has recorded."""
    for name in RECORDS:
        (folder / name).unlink(missing_ok=True)


class BeingRun(UserError):
    """Another process runs what is in a folder."""


def claim(folder: Path) -> ExitStack:
    """The lock that says that this process runs what is in a folder, until it is closed; BeingRun: another does."""
    file, held = folder / _RUNNING, ExitStack()
    try:
        held.enter_context(locked(file, timeout=0))
    except Timeout:
        who = file.read_text(encoding="utf-8").strip() or "another process"
        raise BeingRun(f"{folder}: is being run ({who}). Wait for its end, or name another folder") from None
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write_text(f"pid {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
    return held
