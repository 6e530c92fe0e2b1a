"""``--help``: groups and studies, and every option with its value and the sentence beside its field."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import MISSING, DictConfig, OmegaConf

from kimi_audio_ft import __version__
from kimi_audio_ft.cli.arguments import value_of_flag
from kimi_audio_ft.cli.notebook import initialized
from kimi_audio_ft.cli.settings import config_values, option_names, value_at
from kimi_audio_ft.config.command_line import in_quotes, written
from kimi_audio_ft.config.schemas import SCHEMAS
from kimi_audio_ft.paths import project_root

_STUDIES = "experiments"
# Groups that follow another choice.
_INNER = ("recipe", "hydra/env", "hydra/output", "hydra/help", "hydra/hydra_help", "hydra/callbacks")
_FLAGS = {
    "-m, --multirun": "a sweep over comma-separated values; options stand before or after it",
    "--cfg job": "print the config that would be run; -p GROUP only a part, --resolve with references filled in",
    "--config-dir DIR": "a folder of your own groups, studies and configs; --config-name NAME starts from one of these",
    "--info defaults-tree": "which file each value comes from; searchpath: where files are looked for",
    "--hydra-help": "Hydra's own options",
    "--version": "the versions of this package and of Hydra",
}
_COMPLETION = 'Tab completes options and values in bash after: eval "$({} -sc install=bash)"'
_WIDTH, _COLUMN = 120, 42


def console_script(command: str) -> str:
    """The program that pip installs for a command (setup.cfg)."""
    return f"kimi-audio-ft-{command.replace('_', '-')}"


def print_version() -> None:
    print(f"kimi_audio_ft {__version__} (Hydra {hydra.__version__})")


def print_help(command: str, flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Print the help of a command, its values as these flags and overrides make them."""
    name = value_of_flag(flags, "--config-name", "-cn") or command
    own = value_of_flag(flags, "--config-dir", "-cd") or value_of_flag(flags, "--config-path", "-cp")
    given = [*overrides, *([f"hydra.searchpath=[{in_quotes(f'file://{Path(own).absolute()}')}]"] if own else [])]
    with initialized(command):
        config = hydra.compose(name, overrides=given, return_hydra_config=True)
        lines = [str(config.hydra.help.header).strip()]
        lines += ["", "== Groups (GROUP=CHOICE) ==", *_groups(config)]
        if studies := _choices_of(_STUDIES, config) if "lora" in config else []:
            lines += ["", f"== Studies (+{_STUDIES}=NAME) ==", *(_line(one, _question(one)) for one in studies)]
    lines += ["", "== Options (OPTION=VALUE) ==", *_options(SCHEMAS[command], config_values(config))]
    if "lora" in config:
        lines += ["", "== Options of sweeps ==", *_options_of_sweeps(config)]
    completion = _COMPLETION.format(console_script(command))
    print("\n".join([*lines, "", "== Flags ==", *(_line(*flag) for flag in _FLAGS.items()), completion]))


def _groups(config: DictConfig) -> Iterator[str]:
    """Each group that the command reads, with its choice and the others."""
    hidden = _INNER if "lora" in config else ("hydra/", *_INNER)
    for group, chosen in sorted(config.hydra.runtime.choices.items()):
        choices = [] if group.startswith(hidden) else _choices_of(group, config)
        if choices and group != _STUDIES:
            others = [one for one in choices if one != chosen]
            yield _line(f"{group}={written(chosen)}", f"or {', '.join(others)}" if others else "")


def _choices_of(group: str, config: DictConfig) -> list[str]:
    """Files of a group, wherever this config was looked for; Hydra's own list takes a second for all groups."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    found = {name for one in sources if one.is_group(group) for name in one.list(group, ObjectType.CONFIG)}
    folders = [Path(one.path, group) for one in config.hydra.runtime.config_sources if one.schema == "file"]
    return sorted(found | {file.stem for folder in folders for file in folder.glob("*.yaml")})


def _question(study: str) -> str:
    """The question in the first lines of a study of ours."""
    file = project_root() / _STUDIES / f"{study}.yaml"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    asked = re.search(r"^# Question:(.*(?:\n# {3,}.*)*)", text, re.MULTILINE)
    return " ".join(asked[1].replace("\n#", " ").split()) if asked else ""


def _options(schema: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    said = sentences(schema)
    for name in option_names(schema):
        value = value_at(values, name)
        if not name.startswith("_"):
            yield _line(f"{prefix}{name}={'' if value == MISSING else written(value)}", said.get(name, ""))


def _options_of_sweeps(config: DictConfig) -> Iterator[str]:
    for group in ("launcher", "sweeper"):
        node = config.hydra[group]
        schema = OmegaConf.get_type(node)
        if is_dataclass(schema) and schema.__module__.startswith("kimi_audio_ft."):
            yield from _options(cast(type, schema), config_values(node), f"hydra.{group}.")


def _line(left: str, right: str) -> str:
    """Two columns, the right one wrapped."""
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns) - _COLUMN - 2
    left = textwrap.indent(left, "  ")
    rows = textwrap.wrap(right, max(width, 30), break_long_words=False, break_on_hyphens=False)
    if not rows or len(left) > _COLUMN:
        return "\n".join([left, *(" " * (_COLUMN + 2) + row for row in rows)])
    return "\n".join([f"{left:<{_COLUMN}}  {rows[0]}", *(" " * (_COLUMN + 2) + row for row in rows[1:])])


@cache
def sentences(schema: type) -> Mapping[str, str]:
    """What the comments beside or above the fields of a dataclass say of each option, by dotted name.

    A field without one shares that of the field above it.
    """
    found: dict[str, str] = {}
    for one in reversed(schema.__mro__):
        if is_dataclass(one):
            found |= _comments(one)
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            found |= {f"{name}.{inner}": text for inner, text in sentences(cast(type, hint)).items()}
    return found


def _comments(schema: type) -> Iterator[tuple[str, str]]:
    source = textwrap.dedent(inspect.getsource(schema))
    lines, text = source.splitlines(), ""
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    for field in body.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = _beside(lines, field) or _above(lines, field.lineno - 1) or text
            yield field.target.id, text


def _beside(lines: Sequence[str], field: ast.AnnAssign) -> str:
    _, hash_sign, text = lines[(field.end_lineno or field.lineno) - 1][field.end_col_offset or 0 :].partition("#")
    return text.strip() if hash_sign else ""


def _above(lines: Sequence[str], place: int) -> str:
    begin = place
    while begin and lines[begin - 1].strip().startswith("#"):
        begin -= 1
    return " ".join(line.strip().removeprefix("#").strip() for line in lines[begin:place])
