"""A Hydra callback that ends a sweep with its report and last messages, whether or not some trials failed."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, chdir, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from rich.console import Console
from yaml import YAMLError

from kimi_audio_ft.config.launcher import is_dry_run
from kimi_audio_ft.errors import ConfigError, Refused, UserError
from kimi_audio_ft.files import parse_yaml
from kimi_audio_ft.runtime.time_limit import TimeLimit, TimeUp
from kimi_audio_ft.store import product_path
from kimi_audio_ft.sweep.optuna import StoredStudy, is_optuna, refuse_unusable_study
from kimi_audio_ft.sweep.view.report_again import digest_of_sweep, keep_report, made_report
from kimi_audio_ft.sweep.view.screen import quiet_job_console
from kimi_audio_ft.sweep_folder import (
    REPORT,
    UNSEEN,
    BeingRun,
    claim,
    clear_trial,
    planned_trials,
    read_record,
    record_jobs,
    set_aside,
    trial_folders,
)
from kimi_audio_ft.text import first_line, printable, short_names
from kimi_audio_ft.tracking.wandb import record_sweep

if TYPE_CHECKING:
    from multirun_analysis.analysis import Analysis

log = logging.getLogger(__name__)

# Failed trials that are listed one by one.
_MOST_LISTED = 20


class SweepReport(Callback):
    """Runs ``multirun_analysis`` on the sweep's folder, so that one command ends in one report.

    ``hydra.callbacks.report.language`` is the report's, "en" or "zh"; ``hydra.callbacks.report.margin``: how many
    percent worse than the best a cheaper trial may be to be recommended, as ``python -m multirun_analysis --margin``.
    """

    # Folder of the sweep that this process is running; Hydra does not call on_multirun_end when a trial failed.
    _running: ClassVar[Path | None] = None
    # The content of an earlier, other sweep's multirun.yaml, and numbers of the jobs that are in the record.
    _earlier: ClassVar[str | None] = None
    _recorded: ClassVar[set[int]] = set()
    # Trials of a stored study that lie in the folder already: its next ones are numbered from here.
    _first: ClassVar[int] = 0
    _study: ClassVar[StoredStudy | None] = None
    _claim: ClassVar[ExitStack | None] = None
    _nowhere: ClassVar[TemporaryDirectory[str] | None] = None
    _language: ClassVar[str] = "en"
    _margin: ClassVar[float | None] = None
    # Of the running sweep's time, from its launcher.
    limit: ClassVar[TimeLimit | None] = None
    # The end of the time, where unseen data were being decoded.
    _time_up: ClassVar[TimeUp | None] = None

    def __init__(self, language: str = "en", margin: float | None = None) -> None:
        """Refuse another language or margin (ConfigError) now, and not at the end of the sweep."""
        is_number = isinstance(margin, int | float) and not isinstance(margin, bool)
        if margin is not None and not (is_number and 0 <= margin < 100):
            rule = "must be a percentage of at least 0 and less than 100"
            raise ConfigError("hydra.callbacks.report.margin", margin, rule, "Use 3, or 0 for the lowest error rate")
        SweepReport._margin = margin
        if language != SweepReport._language:
            from multirun_analysis.messages import messages_in

            SweepReport._language = messages_in(language).language

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder of a single trial; one that was started in the same second gets another folder.

        Options of the launcher that a single trial would not heed are refused.
        """
        for name in ("hours", "dry_run"):
            value = OmegaConf.select(config, f"hydra.launcher.{name}")
            if value is not None and value is not False:
                rule = "is for a sweep, and this is a single trial"
                raise Refused(ConfigError(f"hydra.launcher.{name}", value, rule, "Add -m"))
        folder, number = Path(str(config.hydra.run.dir)), 1
        given = any(item.startswith("hydra.run.dir=") for item in config.hydra.overrides.hydra)
        while not self._claimed(folder, refuse=given):
            number += 1
            folder = folder.with_name(f"{folder.name.rpartition('.')[0] or folder.name}.{number}")
        with read_write(config), open_dict(config):
            config.hydra.run.dir = str(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the sweep's folder; what an earlier one has left there stays until the first job is sound.

        A dry run has a folder of its own, which goes with it, and all jobs at once; of a stored study it asks nothing,
        which would keep for ever what it was asked for.
        """
        if is_dry_run(config):
            SweepReport._nowhere = TemporaryDirectory(prefix="kimi_audio_ft-dry-run-")
            with read_write(config), open_dict(config):
                config.hydra.sweep.dir = SweepReport._nowhere.name
                for name in ("max_batch_size", "storage"):
                    if name in config.hydra.sweeper:
                        config.hydra.sweeper[name] = None
            return
        folder, sweeper = Path(config.hydra.sweep.dir), config.hydra.get("sweeper", {})
        self._claimed(folder, refuse=True)
        SweepReport._running, SweepReport._recorded, SweepReport._first = folder, set(), 0
        SweepReport.limit = SweepReport._time_up = SweepReport._study = None
        multirun = folder / "multirun.yaml"
        earlier = multirun.read_text(encoding="utf-8") if multirun.is_file() else None
        goes_on = is_optuna(sweeper) and self._study_goes_on(config, folder, earlier)
        OmegaConf.save(config, multirun)  # as Hydra's own sweeper does, but not every other one
        SweepReport._earlier = None if earlier is None or goes_on or _same_trials(earlier, config) else earlier

    @classmethod
    def _study_goes_on(cls, config: DictConfig, folder: Path, earlier: str | None) -> bool:
        """Whether the trials in the folder are the study's own, so that its next ones are numbered after them.

        A study that cannot be run is refused.
        """
        sweeper = config.hydra.sweeper
        try:
            refuse_unusable_study(sweeper, str(OmegaConf.select(config, "hydra.launcher._target_")))
            if sweeper.get("storage") is None:
                return False
            cls._study = StoredStudy(sweeper)
            if earlier is None or not cls._study.ran(earlier) or not cls._study.goes_on():
                return False
            cls._first = cls._study.next_number(read_record(folder).get("jobs", {}))
        except UserError as error:
            raise Refused(error) from None
        return True

    @classmethod
    def give_up(cls, jobs: Sequence[Sequence[str]], again: bool) -> None:
        """A batch of jobs, given by their overrides, has ended before its end; its study, if stored, is told.

        Args:
            again: the study is to be asked for the same trials first when the command is run again.
        """
        if cls._study is not None:
            cls._study.give_up(jobs, again)

    @classmethod
    def first_number(cls) -> int:
        """Number of the running sweep's first trial: 0, but for a stored study that goes on."""
        return cls._first

    @classmethod
    def _claimed(cls, folder: Path, refuse: bool) -> bool:
        try:
            cls._claim = claim(folder)
        except UserError as error:
            if refuse or not isinstance(error, BeingRun):
                raise Refused(error) from None
            return False
        return True

    @classmethod
    def _ended(cls) -> Path | None:
        """Give the folder of what this process runs free; return it if that is a sweep."""
        if cls._claim is not None:
            cls._claim.close()
        folder, cls._running, cls._claim = cls._running, None, None
        return folder

    @classmethod
    def begin(cls) -> None:
        """Move the records of another sweep in the running one's folder aside, ahead of the first of this one."""
        earlier, cls._earlier = cls._earlier, None
        if cls._running is not None and earlier is not None:
            aside = set_aside(cls._running, earlier)
            if aside is not None:
                print(f"{cls._running}: the records of the sweep that ran there before are in {aside.name}")

    @classmethod
    def record(cls, jobs: Mapping[int, tuple[Path, Sequence[str]]]) -> None:
        """Record sound jobs of the running sweep, with their folders and overrides.

        The first ones replace those of an earlier sweep in its folder; another one's records are moved aside.
        """
        new = {number: job for number, job in jobs.items() if number not in cls._recorded}
        if cls._running is None or not new:
            return
        cls.begin()
        record_jobs(cls._running, new, anew=not cls._recorded and not cls._first)
        cls._recorded |= set(new)

    @staticmethod
    def prepare() -> None:
        """Have imported, and put into the store, what takes seconds of a report's time, ahead of the sweep's end."""
        from multirun_analysis.report.page import chart_libraries

        with suppress(Exception):  # whoever makes the report meets it again, and says so
            chart_libraries()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record the trial's folder, clear it, and keep off the console what an open view shows of the trial."""
        folder, number = Path(config.hydra.runtime.output_dir), config.hydra.job.get("num")
        with chdir(config.hydra.runtime.get("cwd", ".")):  # Hydra may have changed into the trial's
            if number is not None:
                self.record({int(number): (folder, list(config.hydra.overrides.task))})
        clear_trial(folder)
        quiet_job_console()

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Give the trial's folder free."""
        self._ended()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report, print the leaderboard and what failed (a sweeper may go on without some trials)."""
        folder = SweepReport._running or Path(config.hydra.sweep.dir)
        if not SweepReport._recorded and not trial_folders(folder):
            self._ended()
            raise Refused(UserError(_no_trials(config.hydra.overrides.task)))
        written = write_sweep_report(folder, SweepReport._language, SweepReport._margin, look=True)
        self._ended()
        for line in failed_trials(folder):
            print(line)
        if not written:
            sys.stdout.flush()
            sys.exit(1)  # Hydra would turn an error into a warning
        if SweepReport._time_up is not None:
            raise SweepReport._time_up  # its exit code says that the same command has something left to do

    @classmethod
    def let_go(cls) -> None:
        """Give the folder free that was claimed, however its run has ended."""
        cls._ended()

    @classmethod
    def conclude_failed(cls) -> str | None:
        """Write the report of a sweep that an error ended.

        Returns:
            Which trials failed and why; None when this process runs no sweep, or the error was not a trial's.
        """
        folder = cls._ended()
        failures = failed_trials(folder) if folder is not None else []
        if folder is None or not failures:
            return None
        write_sweep_report(folder, cls._language, cls._margin)
        again = "Fix the cause and re-run: finished trials are skipped"
        return "\n".join([*failures, again])

    @classmethod
    def conclude_interrupted(cls, report: bool = False) -> str:
        """How far a sweep was when it was interrupted; empty when this process runs none.

        Args:
            report: also write the report of what there is.
        """
        folder = cls._ended()
        if folder is None:
            return ""
        if report:
            write_sweep_report(folder, cls._language, cls._margin)
        done = sum((trial / "scores.json").is_file() for trial in trial_folders(folder))
        failures = failed_trials(folder)
        planned = planned_trials(folder)
        of = f" of {planned}" if planned else ""
        said = [f"{done}{of} trial{' is' if (planned or done) == 1 else 's are'} done in {folder}", *failures]
        if cls._study is not None:
            number = cls._study.given_back
            first = f", first with the {number} that were interrupted" if number else ""
            said.append(f"The study then goes on with hydra.sweeper.n_trials more trials{first}")
        return "\n".join(said)


def _no_trials(overrides: Sequence[str]) -> str:
    """Why a sweep had no trial to run."""
    globs = [one for one in overrides if "glob(" in one]
    if not globs:
        return "the sweep has no trials: one of its options has no value"
    group = globs[0].lstrip("+").partition("=")[0]
    return f"{globs[0]}: no choice of {group} has such a name, so the sweep has no trials. --help lists the choices"


def _same_trials(earlier: str, config: DictConfig) -> bool:
    """Whether an earlier multirun.yaml asks for the same trials, however it launched them."""

    def asked(overrides: Any) -> list[str]:
        own = [item for item in overrides["hydra"] if item.startswith(("hydra/sweeper", "hydra.sweeper"))]
        return sorted([*overrides["task"], *own])

    try:
        return asked(parse_yaml(earlier)["hydra"]["overrides"]) == asked(config.hydra.overrides)
    except (YAMLError, TypeError, KeyError):
        return False


def failed_trials(folder: Path) -> list[str]:
    """Lines for a person: how many trials failed, and of each its log and why; none when none failed."""
    trials = trial_folders(folder)
    failures = [path for trial in trials if (path := trial / "failure.json").is_file()]
    if not failures:
        return []
    number = max(planned_trials(folder) or 0, len(trials))
    jobs = list(read_record(folder).get("jobs", {}).values())
    names = short_names([job["overrides"] for job in jobs])
    named = {folder / job["folder"]: name for job, name in zip(jobs, names, strict=True)}
    lines = [f"{len(failures)} of {number} trials failed:"]
    for path in failures[:_MOST_LISTED]:
        failure = json.loads(path.read_text(encoding="utf-8"))
        reason = first_line(failure["message"], failure["error_type"])
        logs = [*sorted(path.parent.glob("*.log")), path]  # of hydra.job.name; hydra/job_logging may write none
        lines.append(printable(f"  {logs[0]} ({named.get(path.parent, failure['trial'])}): {reason}"))
    if len(failures) > _MOST_LISTED:
        lines.append(f"  and {len(failures) - _MOST_LISTED} more; `ls {folder}/*/failure.json` lists them")
    return lines


def write_sweep_report(folder: Path, language: str = "en", margin: float | None = None, look: bool = False) -> bool:
    """Print the leaderboard and write the report; returns whether that was possible.

    A report that cannot be made must not hide the sweep's end. Where W&B records the trials, it gets the report too.

    Args:
        margin: in percent.
        look: first decode what is recommended on the sets that no trial has seen, if the sweep names any.
    """
    if not any((trial / "scores.json").is_file() for trial in trial_folders(folder)):
        log.warning("no report of %s: no trial is scored", folder)
        return True
    console = Console()
    made_of = digest_of_sweep(folder, [language, margin], console)
    made = made_report(folder, made_of)
    if made is not None:
        _show(made.printed)
    elif not _make_report(folder, language, margin, look, console, made_of):
        return False
    files = [folder.resolve() / name for name in REPORT]
    print(f"report: {files[0]}{' (nothing has changed since it was written)' if made else ''}")
    record_sweep(folder, files)
    return True


def _make_report(folder: Path, language: str, margin: float | None, look: bool, console: Console, made_of: str) -> bool:
    """Make, print and write it, and remember what it was made of; returns whether that was possible."""
    from multirun_analysis.analysis import load_sweep, with_unseen
    from multirun_analysis.report.page import write_comparison
    from multirun_analysis.terminal import print_leaderboard

    try:
        comparison = load_sweep(folder) if margin is None else load_sweep(folder, margin / 100)
        if look and _confirmed(comparison):
            comparison = with_unseen(comparison)
        with console.capture() as captured:
            print_leaderboard(comparison, console, failures=False)
        try:
            write_comparison(comparison, language=language)
        finally:  # whoever has closed the terminal gets the files, and whoever has no room for them the leaderboard
            _show(captured.get())
    except UserError as error:
        log.warning("no report: %s", error)
        return False
    except Exception:
        log.exception("no report of %s; `python -m multirun_analysis %s` makes it again", folder, folder)
        return False
    records = [trial.record for trial in comparison.sweep.finished]
    named = [record.get(name) for record in records for name in ("test_manifest", "guard_manifests")]
    if not any(named) and not (folder / UNSEEN).exists():  # otherwise every end of the sweep looks there
        recordings = dict.fromkeys(str(row["audio"]) for row in comparison.best.trial.utterances if row.get("audio"))
        adapters = dict.fromkeys(product_path("adapter", str(record.get("signature"))) for record in records)
        keep_report(folder, made_of, captured.get(), map(Path, recordings), adapters)
    return True


def _show(printed: str) -> None:
    """Print what is finished text; where nobody reads it any more (``| head``) the command ends."""
    try:
        print(printed, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)  # Hydra would turn the error into a warning


def _confirmed(analysis: Analysis) -> bool:
    """Whether the sweep's choice was decoded on unseen data; a failure is told, and hides no report."""
    from kimi_audio_ft.sweep.confirm.unseen import confirm

    again = f"`python -m multirun_analysis {analysis.sweep.folder} --confirm` does it later"
    try:
        return confirm(analysis, limit=SweepReport.limit)
    except (UserError, OSError) as error:
        log.warning("nothing was decoded on unseen data: %s. %s", error, again)
    except TimeUp as end:
        log.warning("%s: not all was decoded on unseen data. %s", end, again)
        SweepReport._time_up = end
    except KeyboardInterrupt:
        log.warning("interrupted: not all was decoded on unseen data. %s", again)
    except Exception:
        log.exception("nothing was decoded on unseen data; %s", again)
    return False
