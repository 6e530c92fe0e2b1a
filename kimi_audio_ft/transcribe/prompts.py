"""The prompt that an adapter was trained with, as far as that is known."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.manifests import manifest_paths
from kimi_audio_ft.config.train import DEFAULT_PROMPT
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.manifest.conversation import checked_line
from kimi_audio_ft.manifest.manifest import numbered_lines
from kimi_audio_ft.store.make import META, read_meta

log = logging.getLogger(__name__)


def prompt_of(given: str | None, adapter: Path | None) -> str:
    """The prompt that is given, else the adapter's own, else that of ``prepare``.

    The adapter's is ``data.prompt`` of its training, or that of the first line of its training manifest; where neither
    is known, a warning says so.
    """
    if given is not None:
        return given
    trained = _training_data(adapter)
    if trained.get("prompt"):
        return str(trained["prompt"])
    for path in manifest_paths(trained.get("train_manifest") or []):
        if found := _first_prompt(Path(path)):
            return found
    if adapter is not None:
        message = "%s: its training manifest is not there, so its prompt is not known; %s is used. data.prompt= sets it"
        log.warning(message, adapter, DEFAULT_PROMPT)
    return DEFAULT_PROMPT


def _training_data(adapter: Path | None) -> Mapping[str, Any]:
    """The options ``data`` of an adapter's training; empty for one of another program."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if adapter is not None and (adapter / META).is_file():
            return dict(read_meta(adapter)["config"]["data"])
    return {}


def _first_prompt(manifest: Path) -> str | None:
    with suppress(UserError):  # it is not there any more, or broken
        for number, text in numbered_lines(manifest):
            messages = checked_line(text, manifest, number)["conversation"]
            return next((m["content"] for m in messages if (m["role"], m["message_type"]) == ("user", "text")), None)
    return None
