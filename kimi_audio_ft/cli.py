"""What every command shares: composing its config, and errors as a person wants to read them."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import config_dir, project_root

TRACEBACK_VARIABLE = "KIMI_AUDIO_FT_TRACEBACK"


def command(config_name: str, schema: tuple[str, str]) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Make a Hydra app of a function that takes its settings dataclass.

    The schema ``(module, class)`` is stored as ``<config_name>_schema``, the first entry of the config's defaults list.
    Errors of the user's end in ``error: ...`` and exit code 2; set KIMI_AUDIO_FT_TRACEBACK=1 to see where they arose.
    """

    def decorate(task: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            settings_class = getattr(import_module(schema[0]), schema[1])
            ConfigStore.instance().store(name=f"{config_name}_schema", node=settings_class)
            os.environ["KIMI_AUDIO_FT_ROOT"] = str(project_root())  # conf/*.yaml search `experiments/` below it
            # Hydra would print its own summary and exit with 1; with this, errors reach us as they are.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")

            def run(config: DictConfig) -> Any:
                return task(to_settings(config))

            app = hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(run)
            try:
                app()
            except (UserError, HydraException, OmegaConfBaseException) as error:
                fail(error)

        return main

    return decorate


def to_settings(config: DictConfig) -> Any:
    """The composed config as its dataclass; this is where the checks of ``__post_init__`` run."""
    # to_object() would quietly put the dataclass's default in the place of a required `???`.
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        name = missing[0]
        raise UserError(f"{name}: has no value; it must be given. Write {name}=... on the command line")
    return OmegaConf.to_object(config)


def fail(error: Exception) -> None:
    """Print an error for a person and exit with 2; with KIMI_AUDIO_FT_TRACEBACK set, raise it."""
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    logging.shutdown()
    message = str(error).strip()
    cause = error.__cause__
    if cause is not None and str(cause).strip() and str(cause).strip() not in message:
        message += f"\n  {str(cause).strip()}"
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
