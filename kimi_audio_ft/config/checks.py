"""Checks of option values; a broken rule is a ConfigError that names the option."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kimi_audio_ft.errors import ConfigError, UserError


def require(condition: bool, option: str, value: object, rule: str, remedy: str = "") -> None:
    if not condition:
        raise ConfigError(option, value, rule, remedy)


def at_least(least: int, config: object, group: str, *names: str, remedy: str = "") -> None:
    """Raise a ConfigError unless these fields of a config group are so large, or None."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value >= least, f"{group}{name}", value, f"must be {least} or more", remedy)


def below_one(config: object, group: str, *names: str) -> None:
    """Raise a ConfigError unless these fields of a config group are in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, f"{group}{name}", value, "must be in [0, 1)")


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    require(value in choices, option, value, f"must be one of {', '.join(choices)}")


def count_or_auto(option: str, value: object) -> None:
    """Raise a ConfigError unless the value is a positive integer, or auto."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(value == "auto" or whole, option, value, "must be auto, or 1 or more")


def needs_package(package: str, extra: str, option: str, value: object, or_else: str = "") -> None:
    """Raise a ConfigError unless an optional dependency is installed. or_else: what needs none."""
    try:
        version(package)
    except PackageNotFoundError:
        rule = f"needs the package {package}, which is not installed"
        remedy = f'It comes with pip install -e ".[{extra}]"' + (f"; {or_else}" if or_else else "")
        raise ConfigError(option, value, rule, remedy) from None


def require_extra(extra: str, packages: Iterable[str], command: str) -> None:
    """Raise a UserError unless the packages that a command cannot do without are installed."""
    for package in packages:
        try:
            version(package)
        except PackageNotFoundError:
            remedy = f'It comes with pip install -e ".[{extra}]"'
            raise UserError(f"{command}: needs the package {package}, which is not installed. {remedy}") from None


def expand_home(settings: Any, *names: str) -> None:
    """Replace a leading ``~`` in paths, which no shell does behind ``option=``; also in lists and dicts of paths."""
    for name in names:
        setattr(settings, name, _expanded(getattr(settings, name)))


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111 (not every ~ is a user)
