"""Checks of option values; a broken rule is a ConfigError that names the option."""

from __future__ import annotations

from kimi_audio_ft.errors import ConfigError


def require(condition: bool, option: str, value: object, rule: str, remedy: str = "") -> None:
    """Raise a ConfigError naming the option unless the condition holds."""
    if not condition:
        raise ConfigError(option, value, rule, remedy)


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ConfigError unless the value is one of the choices."""
    require(value in choices, option, value, f"must be one of {', '.join(choices)}")


def count_or_auto(option: str, value: object) -> None:
    """Raise a ConfigError unless the value is a positive integer, or auto."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(value == "auto" or whole, option, value, "must be auto, or 1 or more")
