"""Index of a manifest: byte offsets and contents of its lines as flat columns, built in one cached pass over the file.

Also the state and digests of its recordings, and parallel reading of long files.
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import chain, compress
from multiprocessing.connection import Connection
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.manifest.audio import lengths_16k
from kimi_audio_ft.manifest.conversation import (
    TokenRange,
    checked_line,
    id_of,
    last_answer,
    layout_lengths,
    recordings_of,
    reference_of,
    with_last_prompt,
    with_prompt,
)
from kimi_audio_ft.manifest.hotwords import OPTION, Hotwords, with_words
from kimi_audio_ft.manifest.part import KEYS, WHOLE, Part
from kimi_audio_ft.store.cache import Arrays, remember
from kimi_audio_ft.store.digests import State, file_digest, file_digests, state_of

if TYPE_CHECKING:
    from kimi_audio_ft.model.text_tokenizer import TextTokenizer

# Increment when the checks of a line, the columns or the layout's lengths change.
# 2: `group` must be a string.
# 3: `task_type` must be understanding.
# 4: `start`, `end` and `channel` of audio messages; `columns`.
_VERSION = 4


@dataclass(frozen=True)
class Source:
    """A manifest file and how it is read.

    path: as given by the user. audio_root: base of relative audio paths. prompt: replaces the user's own text messages.
    tokens: range of the codes that every audio message must have. hotwords: put behind the text messages.
    """

    path: Path
    audio_root: Path
    prompt: str | None = None
    tokens: TokenRange | None = None
    hotwords: Hotwords | None = None

    @cached_property
    def file(self) -> Path:
        """Absolute path of the file, independent of the working directory."""
        return self.path.absolute()

    def state(self) -> State:
        """State of the file; DataError if it cannot be read."""
        try:
            with self.file.open("rb") as file:
                return state_of(os.fstat(file.fileno()))
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise DataError(self.path, problem, "Check the option that names it") from None

    def require_unchanged(self, before: State, now: State) -> None:
        """Raises DataError if the file has changed since it was indexed."""
        if before != now:
            raise DataError(self.path, "was changed while it was being read", "Leave it alone, and start again")

    def asked(self, value: dict[str, Any], name: str, number: int | None = None) -> Sequence[dict[str, Any]]:
        """The messages of a line (its id, its number) as the model has them.

        DataError: there is no text message that hot words could be put behind.
        """
        messages = with_prompt(value["conversation"], self.prompt) if self.prompt else value["conversation"]
        words = self.hotwords.of(name, reference_of(messages)) if self.hotwords else ()
        if not words:
            return messages
        found = with_last_prompt(messages, lambda prompt: with_words(prompt, words))
        if found is None:
            problem = f"has no text message of the user, and {OPTION} are put behind one"
            raise DataError(self.path, problem, "Prepare it with a prompt", number)
        return found

    @property
    def prompts(self) -> dict[str, Any]:
        """All that ``asked`` depends on beside the line (JSON); the hot words only where there are some."""
        return {"prompt": self.prompt} | ({"hotwords": self.hotwords.facts} if self.hotwords else {})

    def decoded(self, raw: bytes, number: int) -> str:
        try:
            return raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 (byte {error.object[error.start]:#04x})"
            raise DataError(self.path, problem, "Convert the file to UTF-8", number) from None


@dataclass
class Columns:
    """Columns with one entry per conversation, or per audio message.

    Conversation: byte ``offset`` and ``size``; ``line`` number; number of ``audios``; whether it ends with a text
    answer (``answered``) and has an audio answer (``spoken``); ``lengths`` [n, 2, 2] are positions and supervised text
    positions, of the whole and of the prompt (zeros without a tokenizer).

    Audio message: number of ``codes``, and of bytes in ``names``, the concatenated recording names (0 if none).
    ``parts`` [number of audio messages, 3] are start, end and channel, -1 where a message names none.
    """

    offset: np.ndarray
    size: np.ndarray
    line: np.ndarray
    audios: np.ndarray
    answered: np.ndarray
    spoken: np.ndarray
    lengths: np.ndarray
    codes: np.ndarray
    name_sizes: np.ndarray
    names: np.ndarray
    parts: np.ndarray

    def __len__(self) -> int:
        return len(self.offset)

    @cached_property
    def audio_start(self) -> np.ndarray:
        """``[n + 1]``: conversation i has the audio messages ``audio_start[i]`` up to ``audio_start[i + 1]``."""
        return _starts(self.audios)

    @cached_property
    def _name_start(self) -> np.ndarray:
        return _starts(self.name_sizes)

    def name(self, audio: int) -> str:
        """Recording named by an audio message, or empty."""
        return self.names[self._name_start[audio] : self._name_start[audio + 1]].tobytes().decode()

    def part(self, audio: int) -> Part:
        """Part of its recording that an audio message is."""
        if not self.is_part[audio]:
            return WHOLE
        start, end, channel = (None if value < 0 else value for value in self.parts[audio].tolist())
        return Part(start, end, None if channel is None else int(channel))

    @cached_property
    def is_part(self) -> np.ndarray:
        """Mask of the audio messages that are a part of their recording."""
        return np.any(self.parts >= 0, axis=1)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def index_of(source: Source, tokenizer: TextTokenizer | None) -> tuple[Columns, State]:
    """A manifest's columns, every line validated (DataError), and the file's state at that time."""
    state = source.state()
    facts = {
        "kind": "index",
        "version": _VERSION,
        "file": file_digest(source.file),
        "tokens": [source.tokens.first, source.tokens.end] if source.tokens else None,
        **(source.prompts if tokenizer is not None else {"prompt": None}),
        "tokenizer": tokenizer.identity if tokenizer is not None else None,
    }

    def make() -> Arrays:
        columns = _scanned(source, tokenizer)
        source.require_unchanged(state, source.state())
        return columns

    return Columns(**remember("manifests", facts, make)), state


def _scanned(source: Source, tokenizer: TextTokenizer | None) -> Arrays:
    @lru_cache(maxsize=1024)  # prompts repeat
    def num_tokens(text: str) -> int:
        assert tokenizer is not None
        return len(tokenizer.encode(text))

    def scan(chunk: Chunk) -> tuple[Arrays, DataError | None]:
        return _scan(source, chunk, num_tokens if tokenizer is not None else None)

    parts: list[Arrays] = []
    for part, error in over_cores(scan, chunks_of(source.file)):
        parts.append(part)
        if error is not None:
            _require_own_ids(source, _joined(parts))  # an earlier line may repeat an id
            raise error
    if not any(len(part["offset"]) for part in parts):
        raise DataError(source.path, "holds no conversation", "Prepare the data again, or check the path")
    joined = _joined(parts)
    _require_own_ids(source, joined)
    del joined["id_hash"]
    return joined


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


_TYPES = {
    **dict.fromkeys(("offset", "size", "line", "id_hash"), np.int64),
    **dict.fromkeys(("audios", "lengths", "codes", "name_sizes"), np.int32),
    **dict.fromkeys(("answered", "spoken"), np.bool_),
    "names": np.uint8,
    "parts": np.float64,
}


def _scan(source: Source, chunk: Chunk, num_tokens: Callable[[str], int] | None) -> tuple[Arrays, DataError | None]:
    """Validates and measures the lines of a chunk; returns columns up to the first bad line, and its error."""
    columns: dict[str, list[Any]] = {name: [] for name in _TYPES}
    problem = None
    try:
        for number, offset, raw in lines_of(source.file, chunk):
            text = source.decoded(raw, number)
            if text.strip():
                value = checked_line(text, source.path, number, source.tokens)
                measured = _measured(value, number, source, num_tokens)
                for name, entries in ({"offset": [offset], "size": [len(raw)]} | measured).items():
                    columns[name] += entries
    except DataError as error:
        problem = error
    arrays: Arrays = {name: np.array(entries, _TYPES[name]) for name, entries in columns.items()}
    arrays["lengths"] = arrays["lengths"].reshape(-1, 2, 2)
    arrays["parts"] = arrays["parts"].reshape(-1, len(KEYS))
    return arrays, problem


def _measured(
    value: dict[str, Any], number: int, source: Source, num_tokens: Callable[[str], int] | None
) -> dict[str, Any]:
    """Entries of a conversation in the columns (bytes are entries of ``names``)."""
    messages = value["conversation"]
    lengths = (0, 0, 0, 0)
    if num_tokens is not None:
        asked = source.asked(value, id_of(value, number), number)
        lengths = layout_lengths(asked, num_tokens) + layout_lengths(asked, num_tokens, for_generation=True)
    names = [name.encode() for name in recordings_of(messages)]
    return {
        "line": [number],
        "id_hash": [hash(id_of(value, number))],
        "audios": [len(names)],
        "answered": [any(m["message_type"] == "text" for m in last_answer(messages))],
        "spoken": [any(m["role"] == "assistant" and m["message_type"] == "audio" for m in messages)],
        "lengths": lengths,
        "codes": [len(m.get("audio_tokens") or ()) for m in messages if m["message_type"] == "audio"],
        "name_sizes": [len(name) for name in names],
        "names": b"".join(names),
        "parts": [[m.get(key, -1) for key in KEYS] for m in messages if m["message_type"] == "audio"],
    }


def _require_own_ids(source: Source, columns: Arrays) -> None:
    """Raises DataError for the first repeated id; only lines with colliding id hashes are read again."""
    order = np.argsort(columns["id_hash"], kind="stable")
    ordered = columns["id_hash"][order]
    repeats = np.flatnonzero(ordered[1:] == ordered[:-1])
    first_line: dict[str, int] = {}
    with source.file.open("rb") as file:
        for row in np.union1d(order[repeats], order[repeats + 1]).tolist():
            file.seek(columns["offset"][row])
            number = int(columns["line"][row])
            text = source.decoded(file.read(columns["size"][row]), number)
            name = id_of(checked_line(text, source.path, number, source.tokens), number)
            if name in first_line:
                problem = f"id {name!r} stands already in line {first_line[name]}"
                raise DataError(source.path, problem, "Every conversation needs an id of its own", number)
            first_line[name] = number


class Recordings:
    """Recordings of a manifest's audio messages, in the order of the messages.

    Every method reads the current state of the disk. ``root`` is the base of relative names.
    """

    def __init__(self, columns: Columns, root: Path) -> None:
        self.columns, self.root, self.count = columns, str(root), len(columns.codes)

    def states(self) -> np.ndarray:
        """``[count, 4]``: state of every recording; -1 if the file is missing."""
        is_folder = cache(os.path.isdir)  # a manifest may travel without its recordings
        states = (_state(path) if is_folder(os.path.dirname(path)) else _ABSENT for path in self._paths())  # noqa: PTH120
        return np.fromiter(chain.from_iterable(states), np.int64).reshape(-1, 4)

    def of_files(self) -> np.ndarray:
        """``[count, 32]`` bytes: sha256 of every recording's file, cached by real path and state; zeros if missing."""
        states = self.states()
        names = [hash_of(self.columns.names), hash_of(self.columns.name_sizes)]
        facts = {"kind": "digests", "root": os.path.realpath(self.root), "names": names, "states": hash_of(states)}

        def make() -> Arrays:
            digests, there = np.zeros((self.count, 32), np.uint8), states[:, 0] >= 0
            hashed = map(bytes.fromhex, file_digests(compress(self._paths(), there)))
            digests[there] = np.fromiter(hashed, "S32").view(np.uint8).reshape(-1, 32)
            return {"digests": digests}

        return remember("manifests", facts, make)["digests"]

    def digests(self) -> np.ndarray:
        """As ``of_files``, but for what each message plays: a part of a recording has its ``Part.digest``."""
        files = self.of_files()
        parts = np.flatnonzero(files.any(axis=1) & self.columns.is_part)
        if not len(parts):
            return files
        facts = {"kind": "digests of parts", "files": hash_of(files), "parts": hash_of(self.columns.parts)}

        def make() -> Arrays:
            digests = files.copy()
            for audio in parts.tolist():
                digest = self.columns.part(audio).digest(files[audio].tobytes().hex())
                digests[audio] = np.frombuffer(bytes.fromhex(digest), np.uint8)
            return {"digests": digests}

        return remember("manifests", facts, make)["digests"]

    def num_codes(self, digests: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """``[count]``: number of codes of the ``wanted`` recordings, from their headers (AudioError); else 0."""
        from kimi_audio_ft.model.audio_frontend import num_audio_tokens

        facts = {"kind": "num_codes", "digests": hash_of(digests), "wanted": hash_of(wanted)}

        def make() -> Arrays:
            numbers = np.zeros(self.count, np.int32)
            paths = [os.path.join(self.root, self.columns.name(audio)) for audio in wanted]  # noqa: PTH118
            lengths = lengths_16k(paths, list(map(self.columns.part, wanted)))
            numbers[wanted] = [num_audio_tokens(length) for length in lengths.tolist()]
            return {"num_codes": numbers}

        return remember("manifests", facts, make)["num_codes"]

    def _paths(self) -> Iterator[str]:
        """Path of every recording; empty if a message names none."""
        # Creating a million Path objects would take longer than the lookups.
        return (os.path.join(self.root, name) if name else "" for name in map(self.columns.name, range(self.count)))  # noqa: PTH118


def hash_of(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


_ABSENT: State = (-1, -1, -1, -1)


def _state(path: str) -> State:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # missing, or an impossible file name
        return _ABSENT
    return state_of(status) if S_ISREG(status.st_mode) else _ABSENT


# Parallel reading: a long file in chunks, shared over the cores.

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_BYTES = 1 << 20
# Fewer chunks do not repay starting processes; more processes are limited by the disk and the one reader.
FEWEST_CHUNKS, _MOST_PROCESSES = 16, 8


@dataclass(frozen=True)
class Chunk:
    """Bytes ``start`` to ``end`` of a file: whole lines, the first of which has number ``line`` (from 1)."""

    start: int
    end: int
    line: int


def chunks_of(path: Path) -> list[Chunk]:
    """Splits a file at line feeds into chunks of about a megabyte."""
    chunks: list[Chunk] = []
    start, line = 0, 1
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            block += file.readline() if not block.endswith(b"\n") else b""
            chunks.append(Chunk(start, start + len(block), line))
            start, line = start + len(block), line + block.count(b"\n")
    return chunks


def lines_of(path: Path, chunk: Chunk) -> Iterator[tuple[int, int, bytes]]:
    """Number, byte offset and bytes (with the line feed) of every line of a chunk."""
    with path.open("rb") as file:
        file.seek(chunk.start)
        offset = chunk.start
        for number, raw in enumerate(file, start=chunk.line):
            if offset >= chunk.end:
                return
            yield number, offset, raw
            offset += len(raw)


def runs_of(count: int) -> list[range]:
    """``range(count)`` in runs of at most 1000, as items for ``over_cores``."""
    return [range(start, min(start + 1000, count)) for start in range(0, count, 1000)]


def over_cores(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Parallel ``map(work, items)`` in order; many items are shared over one process per core.

    Processes are forked: ``work`` needs no pickling, and torch and the main module are not imported again. They use no
    GPU and no thread pool. The first UserError of ``work``, in the order of the items, is raised here.
    """
    processes = _processes() if len(items) >= FEWEST_CHUNKS else 1
    if processes == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("fork")
    children, readers = [], []
    try:
        for share in range(processes):
            reader, writer = context.Pipe(duplex=False)
            child = context.Process(target=_serve, args=(work, items[share::processes], reader, writer), daemon=True)
            child.start()
            writer.close()
            children.append(child)
            readers.append(reader)
        for number in range(len(items)):
            yield _received(readers[number % processes])
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.join()


def _processes() -> int:
    """Number of processes; 1 where a fork is unsafe (macOS) or not allowed (in a dataloader worker)."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 1
    return min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)


def _received(reader: Connection) -> Any:
    try:
        result = reader.recv()
    except EOFError:
        raise RuntimeError("a process that helps to read a manifest was killed; is there memory left?") from None
    if isinstance(result, BaseException):
        raise result
    return result


def _serve(work: Callable[[Any], Any], items: Sequence[Any], reader: Connection, writer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the same Ctrl-C and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.disable()  # parsed lines have no cycles; a collection would copy the parent's memory pages
    reader.close()  # else this process would outlive a killed parent, blocked on its own pipe
    with suppress(BrokenPipeError):
        for item in items:
            try:
                result: Any = work(item)
            except UserError as error:
                result = error
            writer.send(result)
