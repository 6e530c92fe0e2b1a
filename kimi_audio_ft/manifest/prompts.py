"""The prompt of a training, as its manifests and the folder of its adapter have it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.manifests import manifest_paths
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.manifest.conversation import checked_line
from kimi_audio_ft.manifest.manifest import numbered_lines

PROMPT = "prompt"
"""Key of the prompt in the record of an adapter, and in that of a merged checkpoint."""
_HOTWORDS = "hotwords"


def prompt_facts(prompt: str | None) -> dict[str, str]:
    """What a record says of a prompt; nothing where it is not known."""
    return {} if prompt is None else {PROMPT: prompt}


def training_prompt(given: str | None, train_manifest: Any) -> str | None:
    """The prompt of a training: the one that is given (``data.prompt``), else that of its manifests' first line.

    None: no manifest is there any more.
    """
    return given or prompt_in(train_manifest)


def prompt_in(manifests: Any) -> str | None:
    """The prompt of the first line of manifests, as an option names them; None: none is there any more."""
    found = (_first_prompt(Path(path)) for path in manifest_paths(manifests or []))
    return next(filter(None, found), None)


def recorded_prompt(record: Path) -> str | None:
    """The prompt that the record of an adapter or of a merged checkpoint names, or its manifests have; None: unknown.

    Records of earlier versions name none; their adapter's manifests are looked for from the present folder.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        facts = json.loads(record.read_text(encoding="utf-8"))
        if facts.get(PROMPT):
            return str(facts[PROMPT])
        data: Mapping[str, Any] = facts["config"]["data"]
        return training_prompt(data.get("prompt"), data.get("train_manifest"))
    return None


def recorded_hotwords(record: Path) -> bool | None:
    """Whether training prompts had hot words, by the record of an adapter or of a copy of it; None: unknown."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        facts = json.loads(record.read_text(encoding="utf-8"))
        if _HOTWORDS in facts:
            return bool(facts[_HOTWORDS])
        config: Mapping[str, Any] = facts["config"]
        if "data" in config:  # that of a training; copies name the base alone
            return bool((config.get("prompt") or {}).get("hotwords"))
    return None


def copied_facts(record: Path) -> dict[str, Any]:
    """What the record of a copy of an adapter says of its prompts, given the adapter's own record."""
    words = recorded_hotwords(record)
    return prompt_facts(recorded_prompt(record)) | ({} if words is None else {_HOTWORDS: words})


def _first_prompt(manifest: Path) -> str | None:
    with suppress(UserError):  # it is not there any more, or broken
        for number, text in numbered_lines(manifest):
            messages = checked_line(text, manifest, number)["conversation"]
            return next((m["content"] for m in messages if (m["role"], m["message_type"]) == ("user", "text")), None)
    return None
