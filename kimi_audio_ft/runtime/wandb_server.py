"""The rules of W&B's server that every reader and writer of runs keeps: mode, login, names, errors without secrets."""

from __future__ import annotations

import logging
import os
from typing import Literal

import regex

from kimi_audio_ft.text import first_line

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]

SYNC = "wandb sync --include-online"
"""The command that uploads runs that were begun online too; without the option it passes them over."""

# W&B refuses longer names of runs and groups when they arrive, which for an offline run is weeks later.
_LONGEST_NAME = 128
_SECRET = regex.compile(r"[\w-]{40,}")
_ALIASES = {"dryrun": "offline", "run": "online"}  # wandb's old names of its modes

# Of this process: its other trials do not ask a server again that did not answer, or refused the login.
_is_offline = False


def resolve_mode(asked: str) -> Mode:
    """``online``, ``offline`` or ``disabled``, given the option ``logger.mode`` (auto, online or offline).

    ``WANDB_MODE`` wins over the option, because a cluster's nodes or a test set it to keep processes off the
    network. Online needs a login; without one the run is offline, and ``wandb sync`` uploads it later.
    """
    mode = os.environ.get("WANDB_MODE") or asked
    mode = _ALIASES.get(mode, mode)
    if mode == "disabled":
        return "disabled"
    if mode == "offline" or _is_offline:
        return "offline"
    if not logged_in():
        if mode != "auto":
            log.warning("W&B: mode %s was asked for, but there is no login (`wandb login`); the run is offline", mode)
        return "offline"
    return "online"


def logged_in() -> bool:
    """Whether wandb finds credentials for its server in the environment, ``.netrc`` or its settings; no network."""
    import wandb
    from wandb.sdk.lib import wbauth

    # `wandb.login(prompt=False)` would do as well, but prints, contacts the server and rewrites wandb's settings file.
    host = wandb.setup(settings=wandb.Settings(silent=True)).settings.base_url
    try:
        found = wbauth.authenticate_session(host=host, source="kimi_audio_ft", prompt=False, update_session=False)
    except wandb.errors.AuthenticationError as error:
        log.warning("W&B: the credentials cannot be used (%s); the run is offline", error)
        return False
    return found is not None


def set_offline(offline: bool) -> None:
    """Whether this process writes offline runs from now on, whatever is asked for, and leaves the server alone."""
    global _is_offline
    _is_offline = offline


def short_name(name: str) -> str:
    """A run's name, or a group's, no longer than W&B takes: the end is what tells siblings apart."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[-(_LONGEST_NAME - 1) :]}"


def described(error: Exception) -> str:
    """Type and first line of an error of wandb's, without anything that could be an API key."""
    return f"{type(error).__name__}: {_SECRET.sub('***', first_line(error))}"
