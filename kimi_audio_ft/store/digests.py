"""sha256 of files, cached in the store by all that tells a file from another one at its path."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from stat import S_ISLNK

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.signature import digest_of

State = tuple[int, int, int, int]
"""Size, times of change of content and inode (ns), and number of the inode: a replaced file differs in some of it."""

# What a file's digest is cached by: its real path and state.
_Key = tuple[str, int, int, int, int]
# Digests of single files that this process has looked up.
_DIGESTS: dict[_Key, str] = {}
# Files in a batch, and threads that hash those without a digest.
_AT_ONCE, _HASHING_THREADS = 500, 4


def state_of(status: os.stat_result) -> State:
    """A file's state, as signed 64-bit numbers."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & (2**63 - 1)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, cached by path and state, in this process and in the store."""
    key = _key(path, {})
    if key not in _DIGESTS:
        (_DIGESTS[key],) = file_digests([path])
    return _DIGESTS[key]


def file_digests(paths: Iterable[str | Path]) -> Iterator[str]:
    """sha256 of every file's bytes, in order, cached in the store; DataError for one that cannot be read.

    For thousands of files: they are looked up in batches, a few threads hash those that are missing, and nothing stays
    in this process's memory. Every batch is saved, so a killed process loses little.
    """
    folders: dict[str, str] = {}
    left = iter(paths)
    with _cache() as cache, ThreadPoolExecutor(_HASHING_THREADS) as pool:
        while some := list(islice(left, _AT_ONCE)):
            keys = [_key(path, folders) for path in some]
            cached = _look_up(cache, keys)
            missing = {key: Path(path) for key, path in zip(keys, some, strict=True) if key not in cached}
            hashed = dict(zip(missing, pool.map(sha256_of, missing.values()), strict=True))
            _save(cache, hashed)
            cached |= hashed
            yield from (cached[key] for key in keys)


def _key(path: str | Path, folders: dict[str, str]) -> _Key:
    """Cache key of a file's digest. ``folders``: real paths of the folders that were looked up before."""
    try:
        status, real = os.lstat(path), None
        if S_ISLNK(status.st_mode):
            status, real = Path(path).stat(), os.path.realpath(path)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check the path") from None
    if real is None:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)  # noqa: PTH118 - a Path for each of a million files takes longer
    return real, *state_of(status)


_TABLE = "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size, changed, moved, inode, sha256 TEXT)"


@contextmanager
def _cache() -> Iterator[sqlite3.Connection]:
    """The store's table of digests, which only saves time; an empty one where there can be none, as on a full disk."""
    with ExitStack() as opened:
        try:
            store_root().mkdir(parents=True, exist_ok=True)
            cache = opened.enter_context(closing(sqlite3.connect(store_root() / "digests.sqlite", timeout=60)))
            cache.execute(_TABLE)
        except (sqlite3.Error, OSError):
            cache = opened.enter_context(closing(sqlite3.connect(":memory:")))
            cache.execute(_TABLE)
        yield cache


def _look_up(cache: sqlite3.Connection, keys: Sequence[_Key]) -> dict[_Key, str]:
    marks = ",".join("?" * len(keys))
    query = f"SELECT path, size, changed, moved, inode, sha256 FROM files WHERE path IN ({marks})"
    try:
        rows = cache.execute(query, [key[0] for key in keys]).fetchall()
    except sqlite3.Error:  # a file system without locks
        return {}
    wanted = set(keys)
    return {row[:5]: row[5] for row in rows if row[:5] in wanted}


def _save(cache: sqlite3.Connection, digests: Mapping[_Key, str]) -> None:
    rows = [(*key, sha256) for key, sha256 in digests.items()]
    with suppress(sqlite3.Error), cache:
        cache.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, read now."""
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
