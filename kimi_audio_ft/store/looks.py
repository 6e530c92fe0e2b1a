"""How often a test set has been looked at: whoever chooses by it once more has no unseen data any more.

``<root>/looks/<digest of the references>.json`` has one entry for each different result that was shown of the set: an
adapter under a decoding setting. The same one shown again chooses nothing, and neither does the base alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import write_json
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.make import lock

log = logging.getLogger(__name__)

FOLDER = "looks"


def look(test_set: str, transcripts: Sequence[str], sweep: Path) -> int:
    """Record that an adapter's transcripts of a test set are shown; returns how many different ones were, with these.

    Args:
        test_set: digest of the set's references. transcripts: signatures, which name adapter and setting.
        sweep: folder of the sweep that shows them.
    """
    path = store_root() / FOLDER / f"{test_set}.json"
    try:
        with lock(FOLDER, test_set):
            found = _read(path)
            if _is_new(found, transcripts):
                now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
                found.append({"transcripts": list(transcripts), "sweep": str(sweep.absolute()), "time": now})
                write_json(path, found)
            return len(found)
    except (UserError, OSError) as error:  # a store that can only be read
        log.warning("%s: this look at the test set is not counted: %s", path, error)
        found = _read(path)
        return len(found) + _is_new(found, transcripts)


def _is_new(found: list[dict[str, Any]], transcripts: Sequence[str]) -> bool:
    return all(one["transcripts"] != list(transcripts) for one in found)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except ValueError as error:
        raise DataError(path, f"is not JSON ({error})", "Remove it; looks are then counted anew") from None
