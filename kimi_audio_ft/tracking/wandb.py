"""A trial, or a sweep's report, as a Weights & Biases run (written against wandb 0.31).

No error of W&B's, from a missing package to a dead network, ends a trial: it is one logged warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, cast

from omegaconf import OmegaConf

from kimi_audio_ft.config.train import LoggerConfig, ScoringConfig
from kimi_audio_ft.files import read_yaml, write_text
from kimi_audio_ft.manifest.audio import AudioError, decode_mono
from kimi_audio_ft.manifest.part import WHOLE, Part
from kimi_audio_ft.runtime.wandb_server import SYNC, Mode, described, resolve_mode, set_offline, short_name
from kimi_audio_ft.scoring.ranking import rate_of
from kimi_audio_ft.store.signature import canonical, flatten
from kimi_audio_ft.sweep_folder import RUN_WITH_CONFIG, hydras_folder, trial_folders
from kimi_audio_ft.tracking.base import RUNG, NewPoints, Tracker, Utterance

log = logging.getLogger(__name__)

PROJECT = "kimi_audio_ft"
STEP = "step"
TABLE = "utterances"
COLUMNS = ("id", "repeat", "reference", "hypothesis", "cer")
# Shown where the rows have them: older ones do not.
MORE_COLUMNS = ("edits", "chars", "loss", "recording", "seconds", "set")
RATE = "rate"
"""In a trial's summary the error rate that ranks it, whichever that is (``scoring.rank_by``)."""
TRIAL_NUMBER = "trial_number"
"""In the config of a sweep's trial: its folder's name, the number that the report calls it by."""
FACTS = "record"
"""Group of the config that holds texts of a finished trial's scores, such as ``record.signature``."""

_ERRORS, _NORMALISED = "errors", "normalised"

_INIT_SECONDS = 30.0
_FINISH_SECONDS = 300.0
JOB_TYPE = "report"
TRIAL = "trial"
FOLDER = "report"
"""In the sweep's folder, where this run's files lie: ``wandb sync SWEEP/*/wandb`` finds them beside the trials'."""
LEADERBOARD = "leaderboard"
TOKEN = ".wandb_token"
"""In a folder that is recorded: what the ids of its runs follow from."""

# In an error of wandb's service when the server has answered.
_ANSWERED, _LOGIN = re.compile(r"returned error \d{3}"), "returned error 401"

# Columns of the leaderboard beside the swept parameters, where trials.json has them.
_FIRST = ("rank", "kind", "name", "trial")
_RATES = (RATE, "rate_ci_low", "rate_ci_high")  # that rank, where it is not the CER
_FIGURES = (
    *("cer", "cer_ci_low", "cer_ci_high", "cer_std", "cer_normalised", "mer", "wer", "exact_match"),
    *("substitutions", "deletions", "insertions", "empty_rate", "over_generation_rate", "pinyin_error_rate"),
    *("base_cer", "relative_reduction", "in_best_group", "recommended", "train_seconds", "decode_seconds", "signature"),
)


class WandbRun(Tracker):
    """One trial's W&B run, open from construction until ``finish`` or ``fail``.

    The config is stored nested, for W&B's filters and grouping, and with dotted keys (``lora.r``), for scripts. Curves
    have a step of their own (``step``), so that those of a reused adapter can be replayed into a run; the summary is
    flat (``summary_of``), with the rate that ranks as ``rate``, and of losses with the lowest; local files go to
    ``folder/wandb``. The same trial in the same folder is the same run again (``run_id``). group: the sweep; None for a
    trial by itself, which then is the run that an agent of W&B Sweeps has named (``WANDB_RUN_ID``).
    """

    shows_utterances = True
    _live: ClassVar[set[Path]] = set()  # folders of this process's open runs

    def __init__(
        self,
        settings: LoggerConfig,
        folder: Path,
        name: str,
        group: str | None,
        config: Mapping[str, Any],
        job_type: str,
    ) -> None:
        self._settings, self._folder = settings, folder.resolve()
        self._run: Any = None
        self._run_folder: Path | None = None  # of a run online
        self._points, self._rung = NewPoints(), 0  # the last rung that the run has
        self._is_trial = job_type == TRIAL
        named = settings.name or os.environ.get("WANDB_NAME")
        number = _number(folder, job_type)
        self._title = partial(_title, named, name, of_sweep=group is not None)
        group = settings.group or os.environ.get("WANDB_RUN_GROUP") or group
        identity = {
            "project": settings.project or os.environ.get("WANDB_PROJECT") or PROJECT,
            "entity": settings.entity,
            "name": self._title(number),
            "group": None if group is None else short_name(group),
            "notes": settings.notes,
            "job_type": os.environ.get("WANDB_JOB_TYPE", job_type) if self._is_trial else job_type,
            "tags": list(settings.tags) or None,
            "config": {**config, **flatten(config), **number},
            "dir": os.environ.get("WANDB_DIR") or str(self._folder),
        }
        of_agent = group is None and "WANDB_RUN_ID" in os.environ
        own_id = None if of_agent else partial(run_id, config=config, job_type=job_type)
        with self._guarded("starting the run"):
            self._start(identity, own_id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        again = metrics.get(RUNG, math.inf) <= self._rung
        new = {} if again else self._points.of(metrics, step)
        if self._run is not None and new:
            with self._guarded("logging"):
                self._run.log({**new, STEP: step})

    def belongs_to(self, folder: Path) -> None:
        if self._run is not None:
            with self._guarded("recording the trial's folder"):
                write_text(folder / TOKEN, (self._folder / TOKEN).read_text(encoding="utf-8"))  # it is the same run
                if number := _number(folder, TRIAL):
                    self._run.config.update(number)
                    self._run.name = self._title(number)

    def keep_adapter(self, folder: Path, signature: str) -> None:
        if self._run is not None and self._settings.adapter:
            with self._guarded("uploading the adapter"), staging_in(self._folder):
                import wandb

                artifact = wandb.Artifact(f"adapter-{signature}", type="model")
                for path in sorted(folder.glob("adapter_*")):  # PEFT's two files
                    artifact.add_file(str(path), name=path.name)
                self._run.log_artifact(artifact)

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        if self._run is not None:
            with self._guarded("finishing the run"):
                facts = facts_of(summary)
                self._run.config.update({FACTS: facts, **flatten({FACTS: facts})})
                rate = rate_of(summary, summary.get("rank_by", ScoringConfig.rank_by))
                self._run.summary.update(summary_of({**summary, RATE: rate}))
                self._log_table(utterances)
                self._close(exit_code=0)

    def fail(self, message: str) -> None:
        if self._run is not None:
            with self._guarded("closing the run"):
                self._run.summary["failure"] = message
                self._close(exit_code=1)

    @contextlib.contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """Turn an error of wandb's into one warning and the end of this run."""
        try:
            yield
        except Exception as error:  # no narrower class holds everything that wandb and its service raise
            lacks = f". Upload the rest with: {SYNC} {shlex.quote(str(self._run_folder))}" if self._run_folder else ""
            log.warning("W&B failed while %s; everything else goes on without it: %s%s", doing, described(error), lacks)
            with contextlib.suppress(Exception):
                self._close(exit_code=1)

    def _close(self, exit_code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            self._live.discard(self._folder)
            run.finish(exit_code=exit_code)

    def _start(self, identity: dict[str, Any], own_id: Callable[[str], str] | None) -> None:
        """Start the run. own_id: its id by the folder's token; None where an agent has named it."""
        # Read by wandb-core when it starts: no crash reports to W&B's own error tracker.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # it advertises itself where openai is imported
        mode = resolve_mode(self._settings.mode)
        if mode == "disabled":
            return
        if self._folder not in self._live:
            _set_aside(self._folder / "wandb")
        self._run = self._started(mode, identity, own_id)
        self._live.add(self._folder)
        if not self._run.offline:
            self._run_folder = Path(self._run.dir).parent
            log.info("W&B run: %s", self._run.url)
        self._run.define_metric(STEP, hidden=True)
        for curves in ("epoch", "train/*", "val/*", "halving/*"):
            self._run.define_metric(curves, step_metric=STEP)
        for loss in ("train/loss", "val/loss"):
            self._run.define_metric(loss, step_metric=STEP, summary="min,last")
        if self._run.resumed:
            self._take_up()

    def _started(self, mode: Mode, identity: dict[str, Any], own_id: Callable[[str], str] | None) -> Any:
        """An open run: the folder's own; online a new one where the server does not take that up, or an offline one."""
        stats = self._is_trial and self._settings.system_metrics
        path = self._folder / TOKEN
        kept = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        tokens = [kept or secrets.token_hex(8)]
        if kept and own_id is not None and mode == "online":
            tokens.append(secrets.token_hex(8))  # W&B never takes the id of a deleted run again
        runs = [identity if own_id is None else {**identity, "id": own_id(token)} for token in tokens]
        write_text(path, tokens[0])
        for token, run in zip(tokens, runs, strict=True):
            try:
                started = _init(mode, run, stats)
            except Exception as error:
                if mode == "offline":
                    raise
                failure = error
                if token != tokens[-1]:
                    log.warning("W&B does not take up this trial's run; trying a new one: %s", described(error))
            else:
                write_text(path, token)
                return started
        return _offline(runs[0], stats, failure)

    def _take_up(self) -> None:
        """Go on in a run of the server's: it has not failed, and the points that it has are not logged again."""
        summary = self._run.summary
        for end in ("failure", "halving/stopped_at"):
            if summary.get(end) is not None:
                summary[end] = None
        self._rung = summary.get(RUNG) or 0
        step = summary.get(STEP)
        if step is not None:
            # An evaluation and a rung come after their step's loss: those of the last step may be missing.
            later = ("val/", "halving/")
            self._points.logged = {name: step - name.startswith(later) for name in summary.keys()}  # noqa: SIM118  # no dict

    def _log_table(self, utterances: Sequence[Utterance]) -> None:
        rows = sorted(utterances, key=lambda row: -row["cer"])[: self._settings.utterance_rows]  # the worst first
        if rows:
            with staging_in(self._folder):
                self._run.log({TABLE: _table(rows, audio=self._settings.audio)})

    def report(self, document: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log a sweep's leaderboard and the artifact of its report's files, and close the run.

        Args:
            document: trials.json. Its figures get names that no trial has (``best_cer``), to keep this run out of the
                trials' scatter plots.
        """
        if self._run is None:
            return
        with self._guarded("uploading the report"), staging_in(self._folder):
            import wandb

            artifact = wandb.Artifact(f"report-{self._run.id}", type=JOB_TYPE)
            for path in files:
                artifact.add_file(str(path), name=path.name)
            self._run.log_artifact(artifact)
            columns, rows = leaderboard(document)
            self._run.log({LEADERBOARD: wandb.Table(columns=[*columns], data=rows, allow_mixed_types=True)})
            scored = [entry["scores"]["cer"] for entry in document["trials"] if entry.get("scores")]
            counts = {"num_trials": len(document["trials"]), "num_scored": len(scored)}
            best_rate = min(entry["rate"] for entry in document["trials"] if entry.get("scores"))
            self._run.summary.update({**counts, "best_cer": min(scored), "best_rate": best_rate})
            self._close(exit_code=0)


def _number(folder: Path, job_type: str) -> dict[str, int]:
    """A trial's number in its sweep; nothing of a single run, whose folder is a date, and of an evaluation."""
    return {TRIAL_NUMBER: int(folder.name)} if job_type == TRIAL and folder.name.isdecimal() else {}


def _title(named: str | None, name: str, number: Mapping[str, int], of_sweep: bool) -> str:
    """A run's name: as the report names the trial, after what all runs of the sweep are to begin with."""
    numbered = f"{number[TRIAL_NUMBER]}: {name}" if number else name
    return short_name(f"{named} {numbered}" if named and of_sweep else named or numbered)


def continue_run(earlier: Path, folder: Path) -> None:
    """Let the next run in a folder be the one that was begun in an earlier folder, unless it has a run of its own.

    The files of that run are set aside then: of two offline runs of one id, the first to be synced would be lost.
    """
    token, own = earlier / TOKEN, folder / TOKEN
    if token.is_file():
        same = token.read_text(encoding="utf-8")
        if not own.is_file():
            write_text(own, same)
        if own.read_text(encoding="utf-8") == same:
            _set_aside(earlier / "wandb")


def _set_aside(runs: Path) -> None:
    """Rename the folder of earlier runs: they may not be uploaded yet, and their config may have been another."""
    if runs.is_dir():
        time_of = time.strftime(".wandb-before-%Y%m%dT%H%M%S")
        names = (time_of if not number else f"{time_of}-{number}" for number in count())
        runs.rename(next(path for path in map(runs.with_name, names) if not path.exists()))


def run_id(token: str, config: Mapping[str, Any], job_type: str) -> str:
    """W&B's id of the run of a config in a folder with this token; where it is recorded to makes no other run of it.

    Not by the folder's path: in containers those of different people are the same.
    """
    same = {name: values for name, values in config.items() if name != "logger"}
    return hashlib.sha256(canonical([token, job_type, same]).encode()).hexdigest()[:16]


def _init(mode: Mode, identity: dict[str, Any], stats: bool) -> Any:
    import wandb

    quiet = wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_stats=not stats,
        x_save_requirements=False,
        reinit="create_new",
        init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", _INIT_SECONDS)),
        # wandb waits for ever by default; what was not uploaded by then stays in the folder for `wandb sync`.
        finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", _FINISH_SECONDS)),
        finish_timeout_raises=True,
    )
    # An offline run cannot be continued: a later one of the same id replaces it when both are synced.
    return wandb.init(mode=mode, settings=quiet, resume="allow" if mode == "online" else None, **identity)


def _offline(identity: dict[str, Any], stats: bool, failure: Exception) -> Any:
    """The run that could not be started online, offline."""
    import wandb

    if isinstance(failure, wandb.errors.AuthenticationError) or _LOGIN in str(failure):
        remedy = "Run `wandb login --relogin`, or correct WANDB_API_KEY; `wandb sync` uploads the runs then"
        log.warning("W&B refuses the login; this process writes offline runs: %s. %s", described(failure), remedy)
        set_offline(True)
    elif isinstance(failure, wandb.errors.CommError | TimeoutError) and not _ANSWERED.search(str(failure)):
        log.warning("W&B cannot be reached; this process writes offline runs from here: %s", described(failure))
        set_offline(True)
    else:
        log.warning("W&B refuses this run, which is written offline: %s", described(failure))
    # wandb's service still holds the id of the run that it could not start.
    other = {"id": f"{identity.get('id') or os.environ['WANDB_RUN_ID']}-offline"}
    return _init("offline", {**identity, **other}, stats)


def _table(rows: Sequence[Utterance], *, audio: bool) -> Any:
    import wandb

    columns = table_columns(rows)
    # Figures that are whole in one row and null, or a fraction, in another are still one column.
    table = wandb.Table(columns=[*columns, *(["audio"] if audio else [])], allow_mixed_types=True)
    for row in rows:
        cells = [table_cell(row, column) for column in columns]
        if audio:
            cells.append(_audio(row))
        table.add_data(*cells)
    return table


def _audio(row: Utterance) -> Any:
    """What was heard: the file, or the samples of its part; None where there is no such recording."""
    import wandb

    path, part = row.get("audio"), Part.of(row)
    if not path or not Path(path).is_file():
        return None
    if part == WHOLE:
        return wandb.Audio(str(path))
    with contextlib.suppress(AudioError):
        return wandb.Audio(*decode_mono(path, part))
    return None


@contextlib.contextmanager
def staging_in(folder: Path) -> Iterator[None]:
    """Let wandb stage files in the trial's folder instead of ``~/.local/share``.

    An offline run refers to its staged files until it is synced.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve() / "wandb")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def record_sweep(folder: Path, files: Sequence[Path]) -> None:
    """Upload the report of the sweep in ``folder``, when its trials were recorded by W&B; never raises.

    Args:
        folder: as Hydra names it, since the group of the trials' runs is this very name.
        files: report.html, trials.csv and trials.json (found by its name), which become the artifact.
    """
    try:
        settings = _logger_of(folder)
        if settings is None:
            return
        (document,) = (json.loads(path.read_text(encoding="utf-8")) for path in files if path.suffix == ".json")
        (folder / FOLDER).mkdir(exist_ok=True)
    except Exception as error:  # as with the trials: no error here may end a sweep
        log.warning("W&B: the report is not uploaded: %s: %s", type(error).__name__, error)
        return
    run = WandbRun(settings, folder / FOLDER, f"report of {folder.name}", str(folder), {}, JOB_TYPE)
    run.report(document, files)


def _logger_of(folder: Path) -> LoggerConfig | None:
    """Settings of the first trial that W&B recorded, from Hydra's copy of its config; DataError: there is no copy."""
    for trial in trial_folders(folder):
        if (trial / TOKEN).is_file():  # an earlier run of it may have been recorded, and the last one not
            config = OmegaConf.create(read_yaml(hydras_folder(trial) / "config.yaml", RUN_WITH_CONFIG))
            settings = LoggerConfig(**cast(dict[str, Any], OmegaConf.to_container(config.logger, resolve=True)))
            if settings.kind == "wandb":
                return settings
    return None


def leaderboard(document: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the leaderboard in trials.json: ranked trials and bases, the best first.

    Columns that no row has are left out; lists (``lora.target_modules``) are written as JSON.
    """
    entries = [entry for entry in (*document["trials"], *document["baselines"]) if entry.get("scores")]
    entries.sort(key=lambda entry: entry["rate"])
    rows = [_flat(entry) for entry in entries]
    ranking = _RATES if document.get("rank_by", ScoringConfig.rank_by) != ScoringConfig.rank_by else ()
    names = [*_FIRST, *document["swept"], *ranking, *_FIGURES]
    columns = [column for column in names if any(row.get(column) is not None for row in rows)]

    def cell(value: Any) -> Any:
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value

    return columns, [[cell(row.get(column)) for column in columns] for row in rows]


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    scores = summary_of({**entry["scores"], "normalised": entry.get("normalised") or {}})
    return {**entry["params"], **scores, **{key: value for key, value in entry.items() if key != "scores"}}


def summary_of(scores: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of ``scores.json``, under a flat name.

    Strict figures keep their names (``cer``), normalised ones get a suffix (``cer_normalised``), and those of groups a
    prefix by which W&B makes sections (``errors/<category>`` for the error categories).
    """
    flat: dict[str, float] = {}
    for key, value in scores.items():
        if isinstance(value, Mapping):
            group = _ERRORS if key == "categories" else key
            for name, number in summary_of(value).items():
                flat[f"{name}_{key}" if key == _NORMALISED else f"{group}/{name}"] = number
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            flat[key] = value
    return flat


def facts_of(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Texts and flags of ``scores.json``, such as the adapter's signature; W&B groups by the config only."""
    return {key: value for key, value in scores.items() if isinstance(value, str | bool)}


def table_columns(utterances: Sequence[Utterance]) -> list[str]:
    """Columns of the table of utterances, without audio."""
    more = [name for name in MORE_COLUMNS if any(row.get(name) is not None for row in utterances)]
    return [*COLUMNS, *more, *([_ERRORS] if any(row.get("categories") for row in utterances) else [])]


def table_cell(utterance: Utterance, column: str) -> Any:
    """One cell of that table; categories as text: ``homophone 2, filler 1``."""
    if column != _ERRORS:
        return utterance.get(column)
    counts = utterance.get("categories") or {}
    return ", ".join(f"{name} {count:g}" for name, count in sorted(counts.items(), key=lambda one: -one[1]) if count)
