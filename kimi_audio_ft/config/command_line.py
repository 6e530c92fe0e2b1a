"""Options and their values as Hydra reads them, whatever people type, and the command that a config was composed by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from kimi_audio_ft.paths import config_dir

# Texts that Hydra's grammar takes without quotes, as no number, null or interpolation.
_PLAIN = re.compile(
    r"(?!(?:null|true|false|nan|inf|[-+.\d][\d.e_+-]*)$)[\w./@%+-][\w./@%+:-]*", re.ASCII | re.IGNORECASE
)
_FUNCTION = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag|extend_list|str|int|float|bool)\((.*)\)")
_BRACKETS = {"[": "]", "{": "}", "(": ")"}


def assigned(key: str, value: Any) -> str:
    """An override as Hydra's command line takes it."""
    return f"{key}={written(value)}"


def option_of(override: str) -> str:
    """The option, or group, that an override sets, adds or deletes."""
    return override.lstrip("+~").partition("=")[0]


def written(value: Any) -> str:
    """A value as Hydra's command line takes it; of numbers all digits: the same temperature decodes the same."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{written(item)}" for name, item in value.items()) + "}"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else in_quotes(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else repr(value)


def in_quotes(text: str) -> str:
    """A text as Hydra reads any."""
    return QuotedString(text, Quote.double).with_quotes()


def module_command(command: str) -> list[str]:
    """``python -m kimi_audio_ft.COMMAND``."""
    return ["python", "-m", f"kimi_audio_ft.{command}"]


def program(command: str, hydra: Mapping[str, Any]) -> list[str]:
    """``python -m kimi_audio_ft.COMMAND``, and the flags that name the user's own configs.

    hydra: Hydra's part of the composed config, which says where its files were found.
    """
    words = module_command(command)
    for source in hydra.get("runtime", {}).get("config_sources") or []:
        if source["provider"] == "command-line":
            words += ["--config-dir", source["path"]]
        elif source["provider"] == "main" and not _is_ours(Path(source["path"])):
            words += ["--config-path", source["path"]]
    name = hydra["job"].get("config_name")
    return words if name in (None, command) else [*words, "--config-name", name]


def _is_ours(folder: Path) -> bool:
    """Whether a folder of configs is this package's; of a sweep that ran on another machine, by its name."""
    return folder == Path(config_dir()) or (folder.name == "conf" and not folder.is_dir())


def readable_cell(key: str, value: str) -> str:
    """An override of one value, whose commas separate nothing."""
    items = _items(value)
    return f"{key}={in_quotes(value)}" if items and len(items) > 1 else readable(f"{key}={value}")


def readable(override: str) -> str:
    """An override with quotes around those of its values that Hydra cannot read: Chinese, ``=``, apostrophes, ...

    One that stays unreadable, such as by a bracket that is not closed, is left for Hydra's message.
    """
    key, equals, value = override.partition("=")
    if not equals or not value or _is_read(override) or not _is_read(f"{key}=x"):
        return override
    better = f"{key}={_quoted(value)}"
    return better if _is_read(better) else override


def _quoted(value: str) -> str:
    value = value.strip()
    items = _items(value)
    if not value or _is_read(f"x={value}") or items is None:
        return value
    if function := _FUNCTION.fullmatch(value):
        return f"{function[1]}({_quoted_items(function[2])})"
    if value[0] == "[" and value[-1] == "]":
        return f"[{_quoted_items(value[1:-1])}]"
    if value[0] == "{" and value[-1] == "}":
        pairs = (item.partition(":") for item in _items(value[1:-1]) or [])
        return "{" + ",".join(f"{name}{colon}{_quoted(item)}" for name, colon, item in pairs) + "}"
    return in_quotes(value) if len(items) == 1 else _quoted_items(value)


def _quoted_items(values: str) -> str:
    return ",".join(map(_quoted, _items(values) or [values]))


def _items(text: str) -> list[str] | None:
    """What stands between commas that are in no brackets and no quotes; None where one of these is not closed."""
    items, closing, quote, begun = [""], list[str](), "", False
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and not begun:  # elsewhere it is an apostrophe
            quote = char
        elif char in _BRACKETS:
            closing.append(_BRACKETS[char])
        elif char in _BRACKETS.values() and (not closing or closing.pop() != char):
            return None
        begun = char not in " ,:[{("
        if char == "," and not closing and not quote:
            items.append("")
        else:
            items[-1] += char
    return None if closing or quote else items


def _is_read(override: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([override])
    except HydraException:
        return False
    return True
