"""``data.yaml``: a corpus as one value of the config group ``data``, which names its manifests (docs/data.md)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.paths import data_page, expanded

DATA_FILE = "data.yaml"
TOKENS = ".tokens.jsonl"
"""End of the name that ``tokenize`` gives to NAME.jsonl."""
_MANIFESTS = ("train_manifest", "eval_manifest", "test_manifest", "guard_manifests")
_PATHS = (*_MANIFESTS, "audio_root")


def see() -> str:
    """Remedy for messages: the page that has an example."""
    return f"{data_page()} has an example"


def find_data_file(choice: str) -> Path | None:
    """The file that is meant by its own path or by that of its folder; None: there is none."""
    path = expanded(choice)
    return next((file for file in (path, path / DATA_FILE) if file.is_file()), None)


def data_values(file: Path) -> dict[str, Any]:
    """Values of the config group ``data``, relative paths from the file's folder; ConfigError: it is no such file."""
    values = _checked(file)
    return {key: _from(file.parent, value) if key in _PATHS else value for key, value in values.items()}


def untokenized(file: Path) -> list[str]:
    """The manifests from which ``tokenize`` makes those that the file names."""
    values, manifests = _checked(file), list[str]()
    for key in _MANIFESTS:
        for name in _leaves(values.get(key) or []):
            rule = f"{key} is {name!r}; tokenize makes NAME{TOKENS} of NAME.jsonl"
            if not name.endswith(TOKENS):
                raise ConfigError("manifests", str(file), rule, "Write manifests=[NAME.jsonl,...] instead")
            manifests.append(_from(file.parent, name.removesuffix(TOKENS) + ".jsonl"))
    return manifests


def data_file_text(splits: Iterable[str]) -> str:
    """Content of the file beside the manifests of these splits, once they are tokenized."""
    lines = [f"{split}_manifest: {split}{TOKENS}\n" for split in splits]
    return f"# The option data=FOLDER of train and evaluate, manifests=FOLDER of tokenize.\n{''.join(lines)}"


def word_for(folder: str) -> str:
    """The folder as an option's value: one without a slash would be taken for the name of a choice."""
    return folder if "/" in folder else f"./{folder}"


def _checked(file: Path) -> dict[str, Any]:
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("data", str(file), f"cannot be read as YAML ({reason})", see()) from None
    if not isinstance(loaded, dict) or not loaded.keys() & {*_MANIFESTS}:
        raise ConfigError("data", str(file), f"names none of {', '.join(_MANIFESTS[:3])}", see())
    values = {str(key): value for key, value in loaded.items()}
    known = [field.name for field in fields(DataConfig)]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1) or [", ".join(_MANIFESTS[:3])]
            raise ConfigError("data", str(file), f"{key}: there is no such option of data", f"Did you mean {near[0]}?")
        if (
            key in _MANIFESTS
            and value is not None
            and not all(isinstance(name, str) and name for name in _leaves(value))
        ):
            raise ConfigError("data", str(file), f"{key} is {value!r}; it must be the path of a manifest", see())
    return values


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _from(folder: Path, value: Any) -> Any:
    """A path, or several, as seen from where the command runs."""
    if isinstance(value, dict):
        return {name: _from(folder, path) for name, path in value.items()}
    if isinstance(value, list):
        return [_from(folder, path) for path in value]
    return str(folder / expanded(value)) if isinstance(value, str) else value
