"""Configs of the commands in notebooks and scripts: ``kimi_audio_ft.compose``, and back to overrides for ``main``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.cli.arguments import with_home
from kimi_audio_ft.cli.explain import about_overrides, explain
from kimi_audio_ft.cli.settings import config_values, option_names, refuse_unknown, value_at
from kimi_audio_ft.config.command_line import assigned, readable
from kimi_audio_ft.config.schemas import SCHEMAS
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.paths import config_dir

VERSION_BASE = "1.3"  # of Hydra, whose defaults hold


@contextmanager
def initialized(name: str) -> Iterator[None]:
    """Hydra with our configs, whatever the caller has initialized it with."""
    with hydra.initialize_config_dir(config_dir(), job_name=name, version_base=VERSION_BASE):
        yield


def compose(overrides: Sequence[str] = (), command: str = "train") -> DictConfig:
    """The config of a command, as ``python -m kimi_audio_ft.COMMAND`` composes it of the same overrides.

    ``kimi_audio_ft.train.main(config)`` then runs it, whatever was changed in it.

    Raises:
        UserError: there is no such command or option, or a value is not of its option's type.
    """
    if command not in SCHEMAS:
        raise ConfigError("command", command, f"must be one of {', '.join(SCHEMAS)}")
    given = [readable(with_home(one)) for one in overrides]
    for one in given:
        if one.lstrip("+~").startswith(("hydra.", "hydra/")):
            raise UserError(f"{one}: is for the command line. Give main(config, folder=...) the folder of a trial")
    try:
        with initialized(command):
            config = hydra.compose(command, overrides=given)
        refuse_unknown(SCHEMAS[command], config_values(config))
    except UserError:
        raise
    except Exception as error:
        if not about_overrides(error):
            raise
        raise UserError(explain(error, SCHEMAS[command])) from None
    return config


def overrides_of(config: DictConfig, command: str) -> list[str]:
    """What differs in a config from the command's own, as its command line takes it.

    Raises:
        UserError: it is no config of this command.
    """
    default = compose((), command)
    if OmegaConf.get_type(config) is not SCHEMAS[command]:
        remedy = f"Write main(kimi_audio_ft.compose([...], command={command!r})); main() alone reads the command line"
        raise UserError(f"main({type(config).__name__}): takes a config that was composed for {command}. {remedy}")
    own, others = config_values(config), config_values(default)
    names = option_names(SCHEMAS[command])
    return [assigned(name, value) for name in names if (value := value_at(own, name)) != value_at(others, name)]


def folder_override(folder: str | Path) -> str:
    """The folder of a single run."""
    return assigned("hydra.run.dir", str(folder))
