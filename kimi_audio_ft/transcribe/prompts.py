"""The prompt of an adapter, or of a merged checkpoint, as far as it is known, and the hot words behind it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from kimi_audio_ft.config.prompt import HotwordsConfig
from kimi_audio_ft.config.train import DEFAULT_PROMPT
from kimi_audio_ft.manifest.hotwords import OPTION, read_hotwords
from kimi_audio_ft.manifest.prompts import recorded_hotwords, recorded_prompt
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


def words_for(options: HotwordsConfig, adapter: Path | None) -> Sequence[str]:
    """The hot words of the options; a warning says so if the adapter, by its folder, was not trained with any."""
    found = read_hotwords(options)
    if found is None:
        return ()
    if adapter is not None and recorded_hotwords(adapter / META) is False:
        message = "%s: it was trained without hot words, and may get worse by them; %s=null leaves them out"
        log.warning(message, adapter, OPTION)
    return found.words
