"""Hydra's complaints about a command line, in words that say what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.store.signature import flatten

# Options that hold another program's own config, with any keys.
OPEN = ("trainer.deepspeed",)
# Choices that come with packages of their own.
PLUGINS = {"hydra/sweeper=optuna": 'It comes with pip install -e ".[optuna]"'}
# A bare ValueError of Hydra's, for `lora=8`.
_NOT_A_CHOICE = "Config group override must be"


def about_overrides(error: Exception) -> bool:
    """Whether Hydra or OmegaConf could not use what stands on the command line."""
    known = isinstance(error, HydraException | OmegaConfBaseException)
    return known or (type(error) is ValueError and str(error).startswith(_NOT_A_CHOICE))


def explain(error: Exception, schema: type) -> str:
    """One message for an error that arose while composing the config of a command with these options."""
    if isinstance(error.__cause__, UserError):  # of a launcher or a sweeper that Hydra could not make
        return str(error.__cause__)
    if str(error).startswith(_NOT_A_CHOICE):
        return f"a group takes the name of one of its choices, such as lora=decoder; its options are lora.r=8. {error}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        choice = f"{group}={name}"
        remedy = PLUGINS.get(choice, f"{group} can be {', '.join(error.options)}")
        return f"{choice}: there is no such choice. {remedy}"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return unknown_option(_option_of(error, cause), option_names(schema))
    if isinstance(cause, OmegaConfBaseException):
        return _wrong_value(error, cause)
    return str(error).strip()


def refuse_unusable(config: DictConfig) -> None:
    """Raise a UserError for an option that the config's dataclass lacks (Hydra lets ``+lora.rank=4`` through), and for
    a required one without a value (``to_object`` would quietly put the dataclass's default there)."""
    options = _options(config)
    _refuse_unknown(config, options)
    if MISSING in str(options):  # asking for their names resolves every option, which takes long in a sweep
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UserError(f"{missing[0]}: has no value; it must be given. Write {missing[0]}=... on the command line")


def _refuse_unknown(config: DictConfig, options: Iterable[str]) -> None:
    schema = OmegaConf.get_type(config)
    if not is_dataclass(schema):
        return
    known = option_names(schema)
    given = (name for name in options if not name.startswith(tuple(f"{option}." for option in OPEN)))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(unknown_option(unknown[0], known))


@cache
def option_names(schema: Any) -> tuple[str, ...]:
    """Dotted names of all options of a settings dataclass."""
    return tuple(_options(OmegaConf.structured(schema)))


def _options(config: DictConfig) -> dict[str, Any]:
    """Options by dotted name, their values as written."""
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    options = flatten({str(key): value for key, value in values.items()})
    return options | {option: {} for option in OPEN if OmegaConf.select(config, option) == {}}


def unknown_option(name: str, known: Iterable[str]) -> str:
    """A message about a name that is none of the options, with the nearest ones."""
    if name.startswith(tuple(f"{option}." for option in OPEN)):
        return f"{name}: is not set yet. Write +{name}=VALUE to add a key"
    known = list(known)
    groups = {option.rpartition(".")[0] for option in known} - {""}
    near = difflib.get_close_matches(name, [*known, *sorted(groups)], n=2, cutoff=0.6)
    last = name.rpartition(".")[2]
    near = near or [option for option in known if option.rpartition(".")[2] == last]
    hint = f"Did you mean {' or '.join(near)}?" if near else "--help lists all options"
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
    place = override or cause.full_key
    return f"{place}: {reason}" if place else reason
