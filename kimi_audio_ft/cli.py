"""The frame of every command: its config is composed by Hydra, and errors become messages for people."""

from __future__ import annotations

import difflib
import errno
import functools
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from kimi_audio_ft.config.data_file import DATA_FILE
from kimi_audio_ft.config.instance import instance
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import config_dir, data_page, expanded, project_root, share_with_group
from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes
from kimi_audio_ft.runtime.time_limit import TimeUp
from kimi_audio_ft.store.signature import flatten

_HYDRA = "1.3"  # whose defaults hold
OUT_OF_TIME = os.EX_TEMPFAIL
"""Exit code of a sweep whose hours are over, as of a task that saved: run it again to go on."""
TRACEBACK_VARIABLE = "KIMI_AUDIO_FT_TRACEBACK"
# The folder where Hydra wants to make outputs/ is full, not writable, or has a file of that name.
_FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

OnFailure = Callable[[dict[str, Any], Exception], None]


class SweepEndings(Protocol):
    """Last messages of a command that may have run a sweep."""

    def conclude_failed(self) -> str | None:
        """Which trials failed and why; None when this process runs no sweep, or the error was not a trial's."""

    def conclude_interrupted(self, report: bool = False) -> str:
        """How far the sweep was, after writing its report if asked for; empty when this process runs none."""


def command(
    config_name: str,
    schema: tuple[str, str],
    on_failure: OnFailure | None = None,
    endings: SweepEndings | None = None,
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Make a Hydra app of a function that takes its settings dataclass.

    The schema ``(module, class)`` is stored as ``<config_name>_schema``, the first entry of the config's defaults list.
    Errors of the user's end in ``error: ...`` and exit code 2; set KIMI_AUDIO_FT_TRACEBACK=1 to see where they arose.
    ``on_failure`` is given every job's options and error, that of an invalid config too, before it is reported.
    """

    def decorate(task: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            leave_out_bitsandbytes()
            share_with_group()
            settings_class = getattr(import_module(schema[0]), schema[1])
            ConfigStore.instance().store(name=f"{config_name}_schema", node=settings_class)
            os.environ["KIMI_AUDIO_FT_ROOT"] = str(project_root())  # conf/*.yaml search `experiments/` below it
            # Hydra would print its own summary and exit with 1; with this, errors reach us as they are.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")

            def run(config: Any) -> Any:
                try:
                    return task(config if isinstance(config, settings_class) else to_settings(config))
                except Exception as error:
                    if on_failure is not None:
                        on_failure(config_values(config), error)
                    if not is_sweep() and is_users(error):
                        fail(str(error), error)  # Hydra would first print a line of its own
                    raise

            run.takes_settings = True  # type: ignore[attr-defined]
            # argparse takes overrides on one side of a flag only, and `... -m lora.r=8,16` is natural to write.
            arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
            sys.argv[1:] = [with_home(argument) for argument in arguments]
            if _is_plain_sweep(sys.argv[1:]):
                app = functools.partial(_sweep, config_name, run, sys.argv[2:])
            else:
                app = hydra.main(version_base=_HYDRA, config_path=config_dir(), config_name=config_name)(run)
            _report_errors(app, settings_class, endings)

        return main

    return decorate


def _is_plain_sweep(arguments: list[str]) -> bool:
    """Whether they are ``-m`` and options of the config, without a mode (``hydra.mode=RUN`` repeats a trial alone)."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    return flags in (["-m"], ["--multirun"]) and not any("hydra.mode" in argument for argument in arguments)


def _sweep(config_name: str, run: Callable[[Any], Any], overrides: list[str]) -> None:
    """As ``hydra.main``, which first composes the whole config to see whether a file of it names a mode."""
    with hydra.initialize_config_dir(config_dir(), job_name=config_name, version_base=_HYDRA):
        app = GlobalHydra.instance().hydra
        assert app is not None
        app.multirun(config_name, run, [*overrides, "hydra.mode=MULTIRUN"])


def _report_errors(app: Callable[[], None], settings_class: type, endings: SweepEndings | None) -> None:
    try:
        app()
        sys.stdout.flush()
    except KeyboardInterrupt as end:
        is_over = isinstance(end, TimeUp)
        why = str(end) if is_over else "interrupted"
        told = [f"{why}; completed work is saved", endings.conclude_interrupted(report=is_over) if endings else ""]
        told += ["Resume with:", f"  {command_line()}"]
        print("\n".join(filter(None, told)), file=sys.stderr)
        sys.exit(OUT_OF_TIME if is_over else 130)
    except BrokenPipeError:  # the output went to `head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        failed_trials = endings.conclude_failed() if endings else None
        if failed_trials is not None:
            fail(failed_trials, error, exit_code=2 if is_users(error) else 1)
        if is_users(error):
            fail(explain(error, settings_class), error)
        if isinstance(error, OSError) and error.errno in _FOLDER_ERRORS:
            path = error.filename or "the folder of the outputs"
            fail(f"{path}: cannot be written ({error.strerror}). Free space there, or run in another folder", error)
        raise


def with_home(argument: str) -> str:
    """``option=~/x`` with the home folder, as bash itself writes some; Hydra's grammar has no ``~`` in plain values."""
    if any(quote in argument for quote in "'\""):
        return argument
    return re.sub(r"(?<=[=,\[])~(?=[/,\]]|$)", lambda _: os.path.expanduser("~"), argument)  # noqa: PTH111


def is_sweep() -> bool:
    """Whether Hydra runs this job as one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def command_line() -> str:
    """The command that this process runs, as one would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name.removesuffix(".__main__")] if spec is not None else [sys.argv[0]]
    return shlex.join(["python", *program, *sys.argv[1:]])


def is_users(error: Exception) -> bool:
    """Whether the user can fix it; anything else is a bug and shows where it arose."""
    return isinstance(error, UserError) or about_overrides(error)


def to_settings(config: DictConfig) -> Any:
    """The composed config as its dataclass; this is where the checks of ``__post_init__`` run."""
    schema, values = OmegaConf.get_type(config), OmegaConf.to_container(config)
    assert isinstance(values, dict)
    if is_dataclass(schema):
        refuse_unusable(schema, {str(key): value for key, value in values.items()})
    return OmegaConf.to_object(config)


def settings_of(schema: type, values: dict[str, Any]) -> Any:
    """The same of a config as nested values none of which refers to another: much faster."""
    refuse_unusable(schema, values)
    return instance(schema, values)


def config_values(config: Any) -> dict[str, Any]:
    """A composed config, or the dataclass made of it, as a nested dict; values of a config are as written."""
    values = OmegaConf.to_container(config) if OmegaConf.is_config(config) else asdict(config)
    return cast(dict[str, Any], values)


def fail(message: str, error: BaseException, exit_code: int = 2) -> None:
    """Print a message for a person and exit; with KIMI_AUDIO_FT_TRACEBACK set, raise the error."""
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    logging.shutdown()
    print(f"error: {message.strip()}", file=sys.stderr)
    sys.exit(exit_code)


# Hydra's errors about a command line, as messages that say what to write instead.

# Options that may hold a mapping with any keys: another program's own config, and names that users give.
OPEN = ("trainer.deepspeed", "decoding.vllm.options", "data.eval_manifest", "data.guard_manifests", "adapters")
_OPEN_KEYS = tuple(f"{option}." for option in OPEN)
# Choices that come with packages of their own.
PLUGINS = {"hydra/sweeper=optuna": 'It comes with pip install -e ".[optuna]"'}
# Options of choices that are not the default.
OF_CHOICES = {
    f"hydra.sweeper.{name}": "It comes with hydra/sweeper=finalists and hydra/sweeper=halving"
    for name in ("finalists", "finalist_seeds")
}
# A bare ValueError of Hydra's, for `lora=8`.
_NOT_A_CHOICE = "Config group override must be"
# Hydra's error for a group of conf/ that a command does not have, as tokenize has no group `data`.
_NO_DATA = "Could not override 'data'. No match in the defaults list"


def about_overrides(error: Exception) -> bool:
    """Whether Hydra or OmegaConf refused the command line."""
    of_hydra = isinstance(error, HydraException | OmegaConfBaseException)
    return of_hydra or (type(error) is ValueError and str(error).startswith(_NOT_A_CHOICE))


def explain(error: Exception, schema: type) -> str:
    """One message for an error that arose while composing the config of a command with these options."""
    if isinstance(error.__cause__, UserError):  # of a launcher or a sweeper that Hydra could not make
        return str(error.__cause__)
    if str(error).startswith(_NOT_A_CHOICE):
        return f"a group takes the name of one of its choices, such as lora=decoder; its options are lora.r=8. {error}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _no_choice(str(error.missing_cfg_file), error.options)
    if str(error).startswith(_NO_DATA) and "manifests" in option_names(schema):
        return "data: there is no such option. Write manifests=FOLDER for what prepare has written"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return unknown_option(_option_of(error, cause), option_names(schema))
    if isinstance(cause, OmegaConfBaseException):
        return _wrong_value(error, cause)
    return str(error).strip()


def _no_choice(file: str, options: Iterable[str]) -> str:
    group, _, name = file.partition("/") if file.startswith("data/") else file.rpartition("/")
    choice = f"{group}={name}"
    remedy = PLUGINS.get(choice, f"{group} can be {', '.join(options)}")
    if group != "data":
        return f"{choice}: there is no such choice. {remedy}"
    if (expanded(name) / DATA_FILE).is_file():
        return f"{choice}: there is no such choice. Write data=./{name} for the folder"
    rule = f"there is no such choice, file, or folder with {DATA_FILE}"
    return f"{choice}: {rule}. {remedy}, or what prepare has written ({data_page()})"


def refuse_unusable(schema: type, values: dict[str, Any]) -> None:
    """Raise a UserError for an option that the dataclass lacks (Hydra lets ``+lora.rank=4`` through), and for one that
    must be given and has no value (``to_object`` would quietly put the dataclass's default there)."""
    options, known = _options(values), option_names(schema)
    unknown = sorted(name for name in options.keys() - set(known) if not name.startswith(_OPEN_KEYS))
    if unknown:
        raise UserError(unknown_option(unknown[0], known))
    missing = sorted(name for name, value in options.items() if value == MISSING)
    if missing:
        raise UserError(f"{missing[0]}: has no value; it must be given. Write {missing[0]}=... on the command line")


@cache
def option_names(schema: type) -> tuple[str, ...]:
    """Dotted names of all options of a settings dataclass."""
    return tuple(_options(cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(schema)))))


def _options(values: dict[str, Any]) -> dict[str, Any]:
    """Options by dotted name, their values as written."""
    options = flatten(values)
    for option in OPEN:
        inner: Any = values
        for name in option.split("."):
            inner = inner.get(name) if isinstance(inner, dict) else None
        if inner == {}:
            options[option] = {}
    return options


def unknown_option(name: str, known: Iterable[str]) -> str:
    """A message about a name that is none of the options, with the nearest ones."""
    if name.startswith(_OPEN_KEYS):
        return f"{name}: is not set yet. Write +{name}=VALUE to add a key"
    known = list(known)
    groups = {option.rpartition(".")[0] for option in known} - {""}
    near = difflib.get_close_matches(name, [*known, *sorted(groups)], n=2, cutoff=0.6)
    last = name.rpartition(".")[2]
    near = [] if name in OF_CHOICES else near or [option for option in known if option.rpartition(".")[2] == last]
    hint = f"Did you mean {' or '.join(near)}?" if near else OF_CHOICES.get(name, "--help lists all options")
    return f"{name}: there is no such option. {hint}"


def _unreadable(error: OverrideParseException) -> str:
    key, equals, value = error.override.partition("=")
    if not equals or not key.strip():
        return f"{error.override!r} cannot be read. Write OPTION=VALUE"
    if value.strip().endswith(","):
        return f"{error.override}: cannot be read, it ends in a comma. Write {key}=A,B for several values"
    quoted = f'"{value}"'
    if value.startswith("[") and value.endswith("]"):
        quoted = "[" + ",".join(f'"{item.strip()}"' for item in value[1:-1].split(",")) + "]"
    return (
        f"{error.override}: cannot be read. Plain values hold English letters, digits and -_./:+@%; "
        f"others, such as Chinese, brackets or =, need double quotes inside the shell's quotes: '{key}={quoted}'"
    )


def _option_of(error: Exception, cause: OmegaConfBaseException) -> str:
    # Hydra's first line has the whole name ("Could not override 'loar.r'."); the cause only up to the wrong part.
    quoted = str(error).partition("'")[2].partition("'")[0]
    return quoted if quoted.startswith(str(cause.full_key)) else str(cause.full_key)


def _wrong_value(error: Exception, cause: OmegaConfBaseException) -> str:
    override = str(error).partition("Error merging override ")[2].strip()
    reason = (cause.msg or str(cause)).strip().splitlines()[0]
    if "is not a ListConfig" in reason:
        key, _, value = override.partition("=")
        return f"{override}: must be a list. Write '{key}=[{value}]'"
    option = override or cause.full_key
    return f"{option}: {reason}" if option else reason
