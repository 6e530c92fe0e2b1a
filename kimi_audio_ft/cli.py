"""What every command shares: composing its config, and errors as a person wants to read them."""

from __future__ import annotations

import errno
import functools
import logging
import os
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.override_errors import about_overrides, explain, refuse_unusable
from kimi_audio_ft.paths import config_dir, project_root
from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes
from kimi_audio_ft.sweep_report import SweepReport

TRACEBACK_VARIABLE = "KIMI_AUDIO_FT_TRACEBACK"
# The folder where Hydra wants to make outputs/ is full, not writable, or has a file of that name.
_FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

OnFailure = Callable[[DictConfig, Exception], None]


def command(
    config_name: str, schema: tuple[str, str], on_failure: OnFailure | None = None
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Make a Hydra app of a function that takes its settings dataclass.

    The schema ``(module, class)`` is stored as ``<config_name>_schema``, the first entry of the config's defaults list.
    Errors of the user's end in ``error: ...`` and exit code 2; set KIMI_AUDIO_FT_TRACEBACK=1 to see where they arose.
    ``on_failure`` is given every job's error, that of an invalid config too, before anything else hears of it.
    """

    def decorate(task: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            leave_out_bitsandbytes()
            settings_class = getattr(import_module(schema[0]), schema[1])
            ConfigStore.instance().store(name=f"{config_name}_schema", node=settings_class)
            os.environ["KIMI_AUDIO_FT_ROOT"] = str(project_root())  # conf/*.yaml search `experiments/` below it
            # Hydra would print its own summary and exit with 1; with this, errors reach us as they are.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")

            def run(config: DictConfig) -> Any:
                try:
                    return task(to_settings(config))
                except Exception as error:
                    if on_failure is not None:
                        on_failure(config, error)
                    if HydraConfig.get().mode == RunMode.RUN and is_users(error):
                        fail(str(error), error)  # Hydra would first print a line of its own
                    raise

            # argparse takes overrides on one side of a flag only, and `... -m lora.r=8,16` is natural to write.
            sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
            app = hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(run)
            _report_errors(app, settings_class)

        return main

    return decorate


def _report_errors(app: Callable[[], None], settings_class: type) -> None:
    try:
        app()
        sys.stdout.flush()
    except KeyboardInterrupt:
        told = ["interrupted: what is complete was kept", SweepReport.conclude_interrupted()]
        told += ["the same command goes on from there:", f"  {command_line()}"]
        print("\n".join(filter(None, told)), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the output went to `head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        failed_trials = SweepReport.conclude_failed()
        if failed_trials is not None:
            fail(failed_trials, error, exit_code=2 if is_users(error) else 1)
        if is_users(error):
            fail(explain(error, settings_class), error)
        if isinstance(error, OSError) and error.errno in _FOLDER_ERRORS:
            place = error.filename or "the folder of the outputs"
            fail(f"{place}: cannot be written ({error.strerror}). Free space there, or run in another folder", error)
        raise


def command_line() -> str:
    """The command that this process runs, as one would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec is not None else [sys.argv[0]]
    return shlex.join(["python", *program, *sys.argv[1:]])


def is_users(error: Exception) -> bool:
    """Whether a person can mend it; anything else is a bug and shows where it arose."""
    return isinstance(error, UserError) or about_overrides(error)


def to_settings(config: DictConfig) -> Any:
    """The composed config as its dataclass; this is where the checks of ``__post_init__`` run."""
    refuse_unusable(config)
    return OmegaConf.to_object(config)


def fail(message: str, error: BaseException, exit_code: int = 2) -> None:
    """Print a message for a person and exit; with KIMI_AUDIO_FT_TRACEBACK set, raise the error."""
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    logging.shutdown()
    print(f"error: {message.strip()}", file=sys.stderr)
    sys.exit(exit_code)
