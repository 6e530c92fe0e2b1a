"""A Hydra app of a function: from the command line, or with a config that a notebook has composed."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from hydra.types import RunMode

from kimi_audio_ft.cli.arguments import HELP, MULTIRUN, flags_and_overrides
from kimi_audio_ft.cli.explain import about_overrides, explain
from kimi_audio_ft.cli.help import console_script, print_help, print_version
from kimi_audio_ft.cli.notebook import VERSION_BASE, folder_override, initialized, overrides_of
from kimi_audio_ft.cli.settings import config_values, to_settings
from kimi_audio_ft.config.command_line import module_command
from kimi_audio_ft.config.schemas import SCHEMAS
from kimi_audio_ft.errors import Refused, UserError
from kimi_audio_ft.paths import config_dir, share_with_group
from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes
from kimi_audio_ft.runtime.time_limit import TimeUp

OUT_OF_TIME = os.EX_TEMPFAIL
"""Exit code of a sweep whose hours are over, as of a task that saved: run it again to go on."""
TRACEBACK_VARIABLE = "KIMI_AUDIO_FT_TRACEBACK"
# What Hydra's own messages tell people to set for a traceback.
_HYDRAS_VARIABLE = "HYDRA_FULL_ERROR"
# The folder where Hydra wants to make outputs/ is full; it is on a read-only disk, or a file has its name.
_FULL, _NO_FOLDER = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.ENOTDIR, errno.EEXIST)

OnFailure = Callable[[dict[str, Any], Exception], None]


class SweepEndings(Protocol):
    """The end of a command that may have run a sweep, and its last messages."""

    def let_go(self) -> None:
        """Give the folder free that was claimed, however its run has ended."""

    def conclude_failed(self) -> str | None:
        """Which trials failed and why; None when this process runs no sweep, or the error was not a trial's."""

    def conclude_interrupted(self, report: bool = False) -> str:
        """How far the sweep was, after writing its report if asked for; empty when this process runs none."""


def command(
    config_name: str, on_failure: OnFailure | None = None, endings: SweepEndings | None = None
) -> Callable[[Callable[[Any], Any]], Callable[..., Any]]:
    """Make a Hydra app of a function that takes its settings dataclass, that of ``config_name`` in ``SCHEMAS``.

    Without arguments the app reads the command line: errors of the user's end in ``error: ...`` and exit code 2; set
    KIMI_AUDIO_FT_TRACEBACK=1 to see where they arose. Given a config of ``kimi_audio_ft.compose``, and perhaps the
    folder of the run, it returns what the function returns, and raises what it raises.

    ``on_failure`` is given every job's options and error, that of an invalid config too, before it is reported.
    """

    def decorate(task: Callable[[Any], Any]) -> Callable[..., Any]:
        @functools.wraps(task)
        def main(config: Any = None, folder: str | Path | None = None) -> Any:
            leave_out_bitsandbytes()
            share_with_group()
            app = _App(config_name, task, on_failure, endings)
            return app.from_command_line() if config is None else app.on(config, folder)

        return main

    return decorate


@dataclass(frozen=True)
class _App:
    """A command that is being run."""

    name: str
    task: Callable[[Any], Any]
    on_failure: OnFailure | None
    endings: SweepEndings | None

    def on(self, config: Any, folder: str | Path | None) -> Any:
        """Run on a config, by Hydra, so that the run's folder holds what it holds from the command line, but for the
        log: what is logged goes where the caller's own logging sends it.
        """
        overrides = overrides_of(config, self.name) + ([] if folder is None else [folder_override(folder)])
        try:
            with initialized(self.name):
                app = GlobalHydra.instance().hydra
                assert app is not None
                return app.run(self.name, self._attempt, overrides, with_log_configuration=False).return_value
        except Refused as end:
            raise end.error from None
        except Exception as error:
            if isinstance(error, UserError) or not about_overrides(error):
                raise
            raise UserError(explain(error, SCHEMAS[self.name])) from error
        finally:  # this process lives on, and may run in the same folder again
            if self.endings is not None:
                self.endings.let_go()

    def from_command_line(self) -> None:
        """Run as the command line says, to the end of the process where it fails."""
        # Hydra would print its own summary and exit with 1; with this, errors reach us as they are.
        variables = {_HYDRAS_VARIABLE: "1"}
        if os.environ.get(_HYDRAS_VARIABLE) == "1":
            variables[TRACEBACK_VARIABLE] = "1"
        with env_override(variables):
            self._with_messages(self._run_typed)

    def _run_typed(self) -> None:
        flags, overrides = flags_and_overrides(sys.argv[1:])
        sys.argv[1:] = [*flags, *overrides]

        def run(config: Any) -> Any:
            return self._run(config)

        run.takes_settings = True  # type: ignore[attr-defined]  # so that the launcher gives them where it has them
        if "--version" in flags:
            print_version()
        elif any(flag in flags for flag in HELP):
            print_help(self.name, flags, overrides)
        elif _is_plain_sweep(flags, overrides):
            with initialized(self.name):
                app = GlobalHydra.instance().hydra
                assert app is not None
                # As ``hydra.main``, which first composes the whole config to see whether a file of it names a mode.
                app.multirun(self.name, run, [*overrides, "hydra.mode=MULTIRUN"])
        else:
            if {"--hydra-help", "-sc", "--shell-completion"} & {*flags}:  # completion is for programs, not for `python`
                sys.argv[0] = console_script(self.name)
            hydra.main(version_base=VERSION_BASE, config_path=config_dir(), config_name=self.name)(run)()

    def _run(self, config: Any) -> Any:
        try:
            return self._attempt(config)
        except Exception as error:
            if not is_sweep() and is_users(error):
                fail(str(error), error)  # Hydra would first print a line of its own
            raise

    def _attempt(self, config: Any) -> Any:
        with _where_it_began():
            try:
                return self.task(config if isinstance(config, SCHEMAS[self.name]) else to_settings(config))
            except Exception as error:
                if self.on_failure is not None:
                    self.on_failure(config_values(config), error)
                raise

    def _with_messages(self, run: Callable[[], None]) -> None:
        try:
            run()
            sys.stdout.flush()
        except KeyboardInterrupt as end:
            is_over = isinstance(end, TimeUp)
            told = [f"{end if is_over else 'interrupted'}; completed work is saved"]
            told += [self.endings.conclude_interrupted(report=is_over)] if self.endings else []
            told += ["Resume with:", f"  {shlex.join([*module_command(self.name), *sys.argv[1:]])}"]
            print("\n".join(filter(None, told)), file=sys.stderr)
            sys.exit(OUT_OF_TIME if is_over else 130)
        except Refused as end:
            fail(str(end.error), end.error)
        except BrokenPipeError:  # the output went to `head`, which has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            failed_trials = self.endings.conclude_failed() if self.endings else None
            if failed_trials is not None:
                fail(failed_trials, error, exit_code=2 if is_users(error) else 1)
            if is_users(error):
                fail(explain(error, SCHEMAS[self.name]), error)
            if isinstance(error, OSError) and (problem := _folder_problem(error)):
                fail(problem, error)
            raise


def _is_plain_sweep(flags: list[str], overrides: list[str]) -> bool:
    """Whether they are ``-m`` and options of the config, without a mode (``hydra.mode=RUN`` repeats a trial alone)."""
    return len(flags) == 1 and flags[0] in MULTIRUN and not any("hydra.mode" in override for override in overrides)


@contextlib.contextmanager
def _where_it_began() -> Iterator[None]:
    """The folder that the command was started in, from which all paths count, whatever ``hydra.job.chdir`` is."""
    hydra_config = HydraConfig.get()
    with contextlib.chdir(hydra_config.runtime.cwd if hydra_config.job.chdir else "."):
        yield


def is_sweep() -> bool:
    """Whether Hydra runs this job as one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _folder_problem(error: OSError) -> str | None:
    """What to tell of a file or folder that cannot be used; None: the error is about something else."""
    if isinstance(error, PermissionError) and error.filename:  # without one: of a process or an address
        rule, remedy = "cannot be opened", "Check its permissions, or run"
    elif error.errno in _FULL:
        rule, remedy = "cannot be written", "Free space there, or run"
    elif error.errno in _NO_FOLDER:
        rule, remedy = "cannot be written", "Run"
    else:
        return None
    return f"{error.filename or 'the folder of the outputs'}: {rule} ({error.strerror}). {remedy} in another folder"


def is_users(error: Exception) -> bool:
    """Whether the user can fix it; anything else is a bug and shows where it arose."""
    return isinstance(error, UserError) or about_overrides(error)


def fail(message: str, error: BaseException, exit_code: int = 2) -> None:
    """Print a message for a person and exit; with KIMI_AUDIO_FT_TRACEBACK set, raise the error."""
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    logging.shutdown()
    print(f"error: {message.strip()}", file=sys.stderr)
    sys.exit(exit_code)
