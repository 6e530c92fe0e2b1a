"""The folder of a sweep, read into plain dataclasses: its trials, and what successive halving stopped early."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from kimi_audio_ft.config.checks import one_of
from kimi_audio_ft.config.command_line import program
from kimi_audio_ft.config.train import RATES, ScoringConfig
from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import read_yaml
from kimi_audio_ft.scoring.ranking import normalised_and_field
from kimi_audio_ft.sweep_folder import (
    BASE_UTTERANCES,
    HALVING,
    UTTERANCES,
    hydras_folder,
    is_trial,
    read_record,
    trial_folders,
)
from multirun_analysis.records import RERUN, Record, finite, identity, read_json, read_jsonl

GREEDY_TEMPERATURE = 0.0
# With which the base is asked too: each is in the parameters of trials that have one.
OF_PROMPT = ("data.prompt", "prompt.hotwords", "prompt.retrieve")
# The commands that sweep, each by an option that only it has: ``hydra.job.name`` may be any.
_MARKS = {"train": "lora", "evaluate": "any_base"}


class Status(StrEnum):
    """How far a trial came; in Hydra's terms where Hydra has one."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    UNFINISHED = "UNFINISHED"
    STOPPED = "STOPPED"  # by successive halving: the adapter was not trained to its end, so nothing was scored


@dataclass(frozen=True)
class Scores:
    """Error rates (fractions, may exceed 1) and counts over characters, of one normalisation."""

    cer: float
    wer: float | None
    mer: float | None
    exact_match: float | None
    substitutions: int | None
    deletions: int | None
    insertions: int | None
    empty_outputs: int | None
    empty_rate: float | None = None
    truncated_outputs: float | None = None
    over_generation_rate: float | None = None
    pinyin_error_rate: float | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any], path: Path) -> Scores:
        """Raises DataError when ``cer`` is missing or not a finite number; other figures may be missing."""
        cer = record.get("cer")
        if not isinstance(cer, int | float) or isinstance(cer, bool) or not math.isfinite(cer):
            raise DataError(path, f"cer={cer!r} must be a finite number", RERUN)
        optional = {name: finite(record.get(name)) for name in cls.__dataclass_fields__ if name != "cer"}
        return cls(cer=float(cer), **optional)


@dataclass(frozen=True, eq=False)
class Trial:
    """One job of a sweep, or the zero-shot base under one of its decoding settings; equal to itself alone.

    ``name`` is its folder's path in the sweep's; ``params`` are flat config keys; ``overrides`` is what the command
    line changed, as typed values; ``record`` is the whole of scores.json, baseline.json or failure.json (empty for an
    unfinished trial), with None in place of NaN and infinity. ``rank_by`` is the sweep's.
    """

    name: str
    folder: Path
    status: Status
    params: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    record: Record = field(default_factory=dict)
    strict: Scores | None = None
    normalised: Scores | None = None
    is_base: bool = False
    rank_by: str = ScoringConfig.rank_by

    @property
    def label(self) -> str:
        """The trial's own name for itself, or its overrides."""
        named = ",".join(f"{key}={value}" for key, value in self.overrides.items())
        return str(self.record.get("trial") or named or self.name)

    @property
    def cer(self) -> float:
        """Strict character error rate of a scored trial."""
        assert self.strict is not None, f"{self.name} has no scores"
        return self.strict.cer

    @property
    def rate(self) -> float:
        """The error rate that ranks a scored trial: one of ``RATES``, by ``rank_by``."""
        rate = self.rate_by(self.rank_by)
        assert rate is not None, f"{self.name} has no {self.rank_by}"
        return rate

    def rate_by(self, rank_by: str) -> float | None:
        """Any of ``RATES``; None where its record lacks it."""
        is_normalised, field = normalised_and_field(rank_by)
        rate: float | None = getattr(self.normalised if is_normalised else self.strict, field, None)
        return rate

    @property
    def decoding_key(self) -> str:
        """Equal for two trials whose base decodes alike: the model, the prompt, ``decoding.*`` and, when sampling, the
        seed."""
        setting = {key: value for key, value in self.params.items() if key.startswith("decoding.")}
        setting |= {key: self.params[key] for key in OF_PROMPT if self.params.get(key) is not None}
        if self.params.get("decoding.text_temperature") != GREEDY_TEMPERATURE:
            setting["seed"] = self.params.get("seed")
        return json.dumps([self.record.get("model"), setting], sort_keys=True, default=str)

    @property
    def utterances_path(self) -> Path:
        """Its utterances, whose file older sweeps lack for a base."""
        return self.folder / (BASE_UTTERANCES if self.is_base else UTTERANCES)

    @cached_property
    def utterances(self) -> list[Record]:
        """Lines of its file of utterances; empty when there is no such file."""
        return list(read_jsonl(self.utterances_path)) if self.utterances_path.is_file() else []

    @cached_property
    def curves(self) -> list[Record]:
        """Lines of curves.jsonl; empty for a base and when there is no such file."""
        path = self.folder / "curves.jsonl"
        return [] if self.is_base or not path.is_file() else list(read_jsonl(path))

    @property
    def failure(self) -> str:
        """The error of a failed trial."""
        return f"{self.record.get('error_type')}: {self.record.get('message')}"

    @property
    def repeats(self) -> list[float]:
        """The CER of each repeat of sampling; of a trial that recorded none, its own."""
        return [rate for rate in self.record.get("cer_repeats") or [] if rate is not None] or [self.cer]

    @property
    def categories(self) -> dict[str, float]:
        """Errors by category, means over the repeats; empty in older records."""
        return self.record.get("categories") or {}

    @property
    def terms(self) -> dict[str, dict[str, Any]]:
        """Counts, recall and precision by term; empty without a list of terms (``scoring.terms``)."""
        return self.record.get("terms") or {}

    @property
    def sets(self) -> dict[str, dict[str, Any]]:
        """Rates and number of references of each evaluation set by its name; empty unless there are several."""
        return self.record.get("sets") or {}

    @property
    def overlap(self) -> dict[str, Any]:
        """Number of evaluated ``utterances`` that were trained on, and ``groups`` that both have; mostly empty."""
        return self.record.get("overlap") or {}

    def losses(self, split: str) -> list[Record]:
        """Rows of the curves of "train" or "val" with a step and a finite loss: a diverged adapter logs NaN."""
        rows = [row for row in self.curves if row.get("split") == split and isinstance(row.get("step"), int)]
        return [row for row in rows if isinstance(row.get("loss"), int | float) and math.isfinite(row["loss"])]


@dataclass(frozen=True)
class HalvedAdapter:
    """An adapter in a sweep with successive halving.

    decision: "continued", "passed", "stopped" or "failed", at ``step`` of its ``num_steps``. score: of the sweep's
    metric there. jobs: its number of trials. overrides: those of its first trial.
    """

    name: str
    decision: str
    step: int
    num_steps: int
    score: float | None
    rank: int | None
    reason: str
    time: str | None
    jobs: int
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Halving:
    """The record of successive halving; ``document`` is the whole file."""

    metric: str
    candidates: list[HalvedAdapter]
    steps_trained: int
    steps_of_all: int
    document: Record

    @property
    def out(self) -> list[HalvedAdapter]:
        """Adapters that were not trained to their end, the best ones first."""
        lost = [candidate for candidate in self.candidates if candidate.decision in ("stopped", "failed")]
        return sorted(lost, key=lambda one: (one.decision == "failed", -one.step, one.rank or 0))


@dataclass(frozen=True)
class Sweep:
    """Everything found in a sweep's folder; ``baselines`` has one entry per decoding setting.

    ``fitting_seconds``: how long the sweep trained adapters, several at a time; None where nobody measured it.
    ``planned``: number of trials that were launched, begun or not; None where that is not known.
    ``halving``: which adapters were stopped early; None in a sweep that stops none.
    ``rank_by``: the error rate that trials are ranked, compared and recommended by.
    ``repeated``: number of scored trials that are not among ``trials``: they are the same as one that is.
    """

    folder: Path
    trials: list[Trial]
    baselines: list[Trial]
    command: str | None
    fitting_seconds: float | None = None
    halving: Halving | None = None
    planned: int | None = None
    rank_by: str = ScoringConfig.rank_by
    repeated: int = 0

    @property
    def not_begun(self) -> int:
        """Trials that wait for their adapters, or that an interrupted sweep did not come to."""
        return max(0, (self.planned or 0) - len(self.trials) - self.repeated)

    @cached_property
    def stopped(self) -> list[tuple[HalvedAdapter, Trial]]:
        """Adapters that were not trained to their end, as trials without scores."""
        found = self.halving.out if self.halving else []
        return [(one, Trial(one.name, self.folder, Status.STOPPED, {}, one.overrides)) for one in found]

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status is Status.COMPLETED]

    @property
    def failed(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status is Status.FAILED]

    @property
    def unfinished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status is Status.UNFINISHED]


def collect(sweep_dir: Path, rank_by: str | None = None) -> Sweep:
    """Read the trial folders in ``sweep_dir``, in the order of their job numbers.

    A folder that is itself the folder of one run is a sweep of one trial.

    Args:
        rank_by: one of ``RATES``; None: as the sweep was run (``scoring.rank_by``).

    Raises:
        DataError: ``sweep_dir`` is no folder or has no trial in it, or a record cannot be read.
        UserError: the records disagree in what they are ranked by, or one lacks that error rate.
    """
    if not sweep_dir.is_dir():
        raise DataError(
            sweep_dir, "is not a folder", "Give the folder of a multirun, for example outputs/multirun/demo"
        )
    folders = trial_folders(sweep_dir)
    if not folders and is_trial(sweep_dir):
        folders = [sweep_dir]
    if not folders:
        raise DataError(
            sweep_dir, "holds no trial folder", "Give the folder that holds the trials' numbered folders (0, 1, ...)"
        )
    ledger = finite(read_record(sweep_dir))
    given = {sweep_dir / job["folder"]: job.get("overrides") for job in ledger.get("jobs", {}).values()}
    baselines: dict[str, Trial] = {}
    trials = []
    for folder in folders:
        overrides = _overrides(folder, given.get(folder))
        name = _name(folder, sweep_dir)
        if (folder / "baseline.json").is_file():
            base = read_scored(folder, folder / "baseline.json", overrides, is_base=True)
            baselines.setdefault(base.decoding_key, replace(base, name=name))
        trials.append(replace(_read_trial(folder, overrides), name=name))
    number, trials = len(trials), _different(trials)
    asked = _rank_by(sweep_dir, trials, list(baselines.values()), rank_by)
    return Sweep(
        folder=sweep_dir,
        trials=[replace(trial, rank_by=asked) for trial in trials],
        baselines=[replace(base, rank_by=asked) for base in baselines.values()],
        command=_sweep_command(sweep_dir),
        fitting_seconds=ledger.get("fitting_seconds"),
        halving=read_halving(sweep_dir),
        planned=ledger.get("trials"),
        rank_by=asked,
        repeated=number - len(trials),
    )


def _different(trials: list[Trial]) -> list[Trial]:
    """Without those that are one that came before: a search asks for a point again, and ``3e-3,0.003`` is one value.

    Equal options, the same adapter and the same transcripts; a trial is no rival of itself.
    """
    found: dict[str, Trial] = {}
    for trial in trials:
        made_of = [trial.record.get("signature"), trial.record.get("transcript_signatures")]
        given = {key: identity(value) for key, value in (trial.params | trial.overrides).items()}
        known = trial.status is Status.COMPLETED and all(made_of)
        found.setdefault(json.dumps([*made_of, given] if known else trial.name, sort_keys=True), trial)
    return list(found.values())


def _name(folder: Path, sweep_dir: Path) -> str:
    """A trial's path within the sweep's folder: with a nested ``hydra.sweep.subdir`` last parts may be alike."""
    is_inside = sweep_dir in folder.parents and ".." not in folder.relative_to(sweep_dir).parts
    return folder.relative_to(sweep_dir).as_posix() if is_inside else folder.name


def _rank_by(folder: Path, trials: list[Trial], baselines: list[Trial], asked: str | None) -> str:
    """The rate that ranks a sweep, which all its records have."""
    scored = [trial for trial in (*trials, *baselines) if trial.strict]
    if asked is None:
        found = {str(trial.record.get("rank_by", ScoringConfig.rank_by)): trial.name for trial in reversed(scored)}
        if len(found) > 1:
            said = ", ".join(f"{rate} in {name}" for rate, name in found.items())
            raise UserError(
                f"{folder}: trials were run under different options: scoring.rank_by is {said}. Choose one with "
                f"--rank-by {'|'.join(RATES)}"
            )
        asked = next(iter(found), ScoringConfig.rank_by)
    one_of("rank_by", asked, tuple(RATES))
    for trial in scored:
        if trial.rate_by(asked) is None:
            path = trial.folder / ("baseline.json" if trial.is_base else "scores.json")
            rule = f"has no {RATES[asked]}, which ranking by {asked} needs"
            raise DataError(path, rule, "Re-run the same sweep command, which only rescores, or rank by cer")
    return asked


def _read_trial(folder: Path, overrides: dict[str, Any]) -> Trial:
    if (folder / "scores.json").is_file():
        return read_scored(folder, folder / "scores.json", overrides, is_base=False)
    failure = folder / "failure.json"
    status = Status.FAILED if failure.is_file() else Status.UNFINISHED
    record = finite(read_json(failure)) if failure.is_file() else {}
    return Trial(folder.name, folder, status, record.get("params") or overrides, overrides, record)


def read_scored(folder: Path, path: Path, overrides: dict[str, Any], is_base: bool) -> Trial:
    """A trial or base from its scores; DataError: they cannot be read, or lack what they must have."""
    record = read_json(path)
    params = record.get("params")
    if not isinstance(params, dict):
        raise DataError(path, f"params={params!r} must be an object of config keys", RERUN)
    normalised = record.get("normalised")
    return Trial(
        name=folder.name,
        folder=folder,
        status=Status.COMPLETED,
        params=finite(params),
        overrides=overrides,
        record=finite(record),
        strict=Scores.from_record(record, path),
        normalised=Scores.from_record(normalised, path) if normalised else None,
        is_base=is_base,
    )


def _overrides(folder: Path, written: list[str] | None) -> dict[str, Any]:
    """Overrides by key, without Hydra's own settings: as the sweep recorded them, or Hydra of the trial."""
    path = hydras_folder(folder) / "overrides.yaml"
    if written is None:
        written = read_yaml(path, RERUN) if path.is_file() else None
    return _values(written or [], path)


def _values(written: list[str], path: Path) -> dict[str, Any]:
    try:
        parsed = [_parsed(str(item)) for item in written]
    except HydraException as error:
        raise DataError(path, f"is not a list of Hydra overrides: {error}", RERUN) from error
    return {
        item.key_or_group: item.value() for item in parsed if not item.key_or_group.startswith(("hydra.", "hydra/"))
    }


@lru_cache(maxsize=100_000)
def _parsed(override: str) -> Override:
    """Hydra takes half a millisecond for it, and a sweep's trials repeat each other's."""
    return OverridesParser.create().parse_overrides([override])[0]


def _sweep_command(sweep_dir: Path) -> str | None:
    """The multirun's command line, from Hydra's multirun.yaml; None when the file is missing or of another shape."""
    path = sweep_dir / "multirun.yaml"
    config: Any = read_yaml(path, RERUN) if path.is_file() else None
    try:
        given = config["hydra"]["overrides"]
        command = next((name for name, mark in _MARKS.items() if mark in config), config["hydra"]["job"]["name"])
        arguments = [*given["task"], *(item for item in given["hydra"] if item != "hydra.mode=MULTIRUN")]
        return shlex.join([*program(command, config["hydra"]), "-m", *arguments])
    except (TypeError, KeyError, AttributeError):
        return None


def read_halving(sweep_dir: Path) -> Halving | None:
    """The record in a sweep's folder; None in a sweep without halving.

    Raises:
        DataError: the file cannot be read, or lacks what it must have.
    """
    path = sweep_dir / HALVING
    if not path.is_file():
        return None
    document = finite(read_json(path))
    try:
        candidates = [_halved(entry, path) for entry in document["candidates"]]
        return Halving(document["metric"], candidates, document["steps_trained"], document["steps_of_all"], document)
    except (KeyError, TypeError) as error:
        raise DataError(path, f"is no record of successive halving ({error})", "Run the same sweep again") from error


def _halved(entry: Record, path: Path) -> HalvedAdapter:
    names = HalvedAdapter.__dataclass_fields__.keys() - {"overrides"}
    return HalvedAdapter(**{name: entry[name] for name in names}, overrides=_values(entry.get("overrides") or [], path))
