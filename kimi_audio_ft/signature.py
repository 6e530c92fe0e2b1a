"""Content addresses: what determines a product, hashed.

A signature covers the *full resolved* config of a stage minus the written exclude list below, plus the identity of
the stage's inputs. Editing a default therefore never reuses a stale product; adding a field makes new signatures,
which cheap LoRA trainings can afford.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.paths import store_root

# Digests that this process has looked up: (path, size, time of change) to sha256.
_DIGESTS: dict[tuple[str, int, int], str] = {}

# Raise a stage's number when its code changes what it computes.
STAGE_VERSION = {"features": 1, "adapter": 2, "transcript": 1}

# Fields that change where, how fast or how visibly a stage runs, but not its result. Paths are replaced by identities.
EXCLUDED = {
    "adapter": (
        "data.train_manifest",
        "data.eval_manifest",
        "data.audio_root",
        "data.num_workers",
        "model.path",
        "model.revision",
        "model.speech_tokenizer",
        "model.gradient_checkpointing",
        "trainer.strategy",
        "trainer.devices",  # trainer.accumulate here counts the micro-batches of all processes
        "trainer.deepspeed",
        "trainer.accelerator",
        "trainer.threads",
        "trainer.log_every",
        "trainer.val_every",
        "trainer.save_every",
        "trainer.save_keep",
        "trainer.progress",
    ),
    "transcript": (
        "data.train_manifest",
        "data.eval_manifest",
        "data.audio_root",
        "data.max_length",
        "data.batch_size",
        "data.max_batch_tokens",
        "data.bucket_by_length",
        "data.num_workers",
        "data.augment",
        "model.path",
        "model.revision",
        "model.speech_tokenizer",
        "model.gradient_checkpointing",
        "decoding.batch_size",
        "decoding.repeats",  # every repeat is a product of its own
    ),
}


def signature(stage: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """A letter and 15 hex digits that name a product of a stage.

    Args:
        stage: "adapter" or "transcript" (see EXCLUDED).
        config: nested dict of the stage's config groups.
        inputs: identities of what the stage reads (JSON values).
    """
    facts = {
        "stage": stage,
        "version": STAGE_VERSION[stage],
        "config": without(config, EXCLUDED[stage]),
        "inputs": inputs,
    }
    # The first letter keeps Hydra from reading a signature such as 1234e56 on its command line as a number.
    return stage[0] + digest_of(facts)[1:]


def digest_of(facts: Any) -> str:
    """16 hex digits of a JSON value, independent of key order."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without(config: Mapping[str, Any], excluded: Iterable[str]) -> dict[str, Any]:
    """A copy of a nested config without the excluded dotted keys."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        inner = [name.removeprefix(f"{key}.") for name in excluded if name.startswith(f"{key}.")]
        if key in excluded:
            continue
        kept[key] = without(value, inner) if isinstance(value, Mapping) else value
    return kept


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"lora": {"r": 8}}`` as ``{"lora.r": 8}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, remembered in the store by path, size and time of change."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check the path") from None
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _DIGESTS:
        _DIGESTS[key] = _remembered_digest(path, key)
    return _DIGESTS[key]


def _remembered_digest(path: Path, key: tuple[str, int, int]) -> str:
    sha256 = ""
    try:
        store_root().mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(store_root() / "digests.sqlite", timeout=60)) as memory, memory:
            memory.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size, changed, sha256 TEXT)")
            row = memory.execute("SELECT sha256, size, changed FROM digests WHERE path = ?", key[:1]).fetchone()
            if row and row[1:] == key[1:]:
                return row[0]
            sha256 = _sha256(path)
            memory.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (*key, sha256))
    except (sqlite3.Error, OSError):  # a full disk or a file system without locks; remembering only saves time
        pass
    return sha256 or _sha256(path)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check its permissions") from None


def folder_digest(folder: Path, patterns: tuple[str, ...] = ("*.json", "*.safetensors", "*.model")) -> str:
    """Identity of a model folder: names and contents of its own files (not of sub-folders)."""
    if not folder.is_dir():
        raise DataError(folder, "no such folder", "Check model.path and model.speech_tokenizer")
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return digest_of([[path.name, file_digest(path)] for path in files])
