"""The prompt that an adapter, or a merged checkpoint, was trained with, as far as that is known."""

from __future__ import annotations

import logging
from pathlib import Path

from kimi_audio_ft.config.train import DEFAULT_PROMPT
from kimi_audio_ft.manifest.prompts import recorded_prompt
from kimi_audio_ft.model.files import MERGE_RECORD
from kimi_audio_ft.store.make import META

log = logging.getLogger(__name__)


def prompt_of(given: str | None, adapter: Path | None, base: Path | None = None) -> str:
    """The prompt that is given, else the adapter's own, else that of ``prepare``.

    The adapter's is the one that its folder names, ``data.prompt`` of its training, or that of the first line of its
    training manifest; where none is known, a warning says so.

    Args:
        base: folder of the base; without an adapter, a merged checkpoint has the prompt of what is merged into it.
    """
    if given is not None:
        return given
    record = None if adapter is None else adapter / META
    if adapter is None and base is not None and (base / MERGE_RECORD).is_file():
        record = base / MERGE_RECORD
    if record is None:
        return DEFAULT_PROMPT
    found = recorded_prompt(record)
    if found is None:
        message = "%s: the prompt that it was trained with is not known; %s is used. data.prompt= sets it"
        log.warning(message, record.parent, DEFAULT_PROMPT)
    return found or DEFAULT_PROMPT
