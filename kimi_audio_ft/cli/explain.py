"""Hydra's errors about a command line, as messages that say what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from kimi_audio_ft.cli.settings import option_names, unknown_option
from kimi_audio_ft.config.data_file import DATA_FILE
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import data_page, expanded

# Choices that come with packages of their own.
PLUGINS = {"hydra/sweeper=optuna": 'It comes with pip install -e ".[optuna]"'}
# A bare ValueError of Hydra's, for `lora=8`.
_NOT_A_CHOICE = "Config group override must be"
# Hydra's error for a group of conf/ that a command does not have, as tokenize has no group `data`.
_NO_DATA = "Could not override 'data'. No match in the defaults list"

# Its error for lora.r=8,16 without -m.
_SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'\n")
# Its error for a file, and the option in it.
_IN_FILE = re.compile(r"In '(.+)': \w+ raised while composing config:\n(.*)(?:\n +full_key: (\S+))?")
# Names in a mapping that was typed, and those that Hydra's grammar takes, which knows no quotes there.
_NAMES = re.compile(r"[{,]\s*([^:,{}\[\]]+?)\s*:")
_PLAIN_NAME = re.compile(r"[\w.@/-]+", re.ASCII)


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
    if several := _SEVERAL.match(str(error)):
        remedy = "Add -m to sweep over them; a list has brackets, a text with commas double quotes"
        return f"{several[1]}: has several values. {remedy}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _no_choice(str(error.missing_cfg_file), error.options)
    if str(error).startswith(_NO_DATA) and "manifests" in option_names(schema):
        return "data: there is no such option. Write manifests=FOLDER for what prepare has written"
    if in_file := _IN_FILE.match(str(error)):
        return _wrong_file(in_file[1], in_file[2], in_file[3], schema)
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


def _wrong_file(file: str, reason: str, option: str | None, schema: type) -> str:
    if option is not None and option == file.partition("/")[0]:
        return f"{file}: sets {option}, which is no option. Its first line must be # @package _global_"
    if reason.startswith("Key ") and option is not None:
        return f"{file}: {unknown_option(option, option_names(schema))}"
    return ": ".join(filter(None, (file, option, reason)))


def _unreadable(error: OverrideParseException) -> str:
    key, equals, value = error.override.partition("=")
    if not equals or not key.strip():
        return f"{error.override!r} cannot be read. Write OPTION=VALUE"
    if value.strip().endswith(","):
        return f"{error.override}: cannot be read, it ends in a comma. Write {key}=A,B for several values"
    name = next((one for one in _NAMES.findall(value) if not _PLAIN_NAME.fullmatch(one)), None)
    if value.startswith("{") and name is not None:
        rule = f"a name inside {{...}}, such as {name}, must be of English letters, digits and _"
        return f"{error.override}: cannot be read: {rule}. Write others into a YAML file of your own (docs/hydra.md)"
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
