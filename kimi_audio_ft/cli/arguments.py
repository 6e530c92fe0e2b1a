"""What people type as Hydra takes it: flags in front, ``~`` for the home folder, quotes around what it cannot read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from kimi_audio_ft.config.command_line import readable
from kimi_audio_ft.errors import UserError

HELP = ("--help", "-h")
MULTIRUN = ("--multirun", "-m")
_ALONE = (
    *(*HELP, *MULTIRUN, "--hydra-help", "--version", "--resolve", "--run", "-r"),
    *("--shell-completion", "-sc"),
)
_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
)
_INFO = ("--info", "-i")
# What may follow it.
_OF_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# Hydra does one of these at a time.
_CONFIG = ("--cfg", "-c")
_EXCLUSIVE = (MULTIRUN, ("--run", "-r"), _CONFIG, _INFO, ("--shell-completion", "-sc"))


def flags_and_overrides(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides; ``--lora.r=8``, as agents of W&B type it, is an override.

    argparse takes overrides on one side of a flag only, and ``lora.r=8,16 -m seed=1`` is natural to write.

    Raises:
        UserError: there is no such flag, or it cannot stand beside another.
    """
    flags, overrides, rest = list[str](), list[str](), list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if not word.startswith("-"):
            overrides.append(word)
        elif name in (*_WITH_VALUE, *_INFO):
            flags.append(word)
            if not equals and name in _INFO and (not rest or rest[0] not in _OF_INFO):
                flags.append(_OF_INFO[0])  # as Hydra understands it where no override follows
            elif not equals and rest:
                flags.append(rest.pop(0))
        elif word in _ALONE:
            flags.append(word)
        elif word.startswith("--") and equals:
            overrides.append(word.removeprefix("--"))
        else:
            option = name.lstrip("-") or "OPTION"
            remedy = f"Options are written without dashes: {option}=VALUE. --help lists options and flags"
            raise UserError(f"{word}: there is no such flag. {remedy}")
    _refuse_together(flags)
    return flags, [readable(with_home(override)) for override in overrides]


def _refuse_together(flags: Sequence[str]) -> None:
    """Raise a UserError for two flags of which Hydra takes one."""
    given = {names: flag for flag in flags for names in _EXCLUSIVE if flag.partition("=")[0] in names}
    if len(given) < 2:
        return
    remedy = "Give one of them"
    if MULTIRUN in given and (_CONFIG in given or _INFO in given):
        remedy = f"Leave out {given[MULTIRUN]} to see the config of one trial, with one value an option (lora.r=8)"
        remedy += "; hydra.launcher.dry_run=true tells what a sweep would make"
    raise UserError(f"{' '.join(given.values())}: only one of these flags can be given. {remedy}")


def value_of_flag(flags: Sequence[str], *names: str) -> str | None:
    """The value that follows one of a flag's names; the last one given."""
    for place in reversed(range(len(flags))):
        name, equals, value = flags[place].partition("=")
        if name in names:
            return value if equals else "".join(flags[place + 1 : place + 2])
    return None


def with_home(argument: str) -> str:
    """``option=~/x`` with the home folder, as bash itself writes some; Hydra's grammar has no ``~`` in plain values."""
    if any(quote in argument for quote in "'\""):
        return argument
    return re.sub(r"(?<=[=,\[])~(?=[/,\]]|$)", lambda _: os.path.expanduser("~"), argument)  # noqa: PTH111
