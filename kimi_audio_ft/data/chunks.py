"""A long file in pieces, and work on pieces shared over the cores."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from kimi_audio_ft.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK_BYTES = 1 << 20
# With fewer pieces starting processes does not pay; with more processes one disk and one reader set the pace.
_FEWEST, _MOST_PROCESSES = 16, 8


@dataclass(frozen=True)
class Chunk:
    """Bytes ``start`` to ``end`` of a file: whole lines, the first of which has number ``line`` (from 1)."""

    start: int
    end: int
    line: int


def chunks_of(path: Path) -> list[Chunk]:
    """A file cut behind line feeds into pieces of about a megabyte."""
    chunks: list[Chunk] = []
    start, line = 0, 1
    with path.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            block += file.readline() if not block.endswith(b"\n") else b""
            chunks.append(Chunk(start, start + len(block), line))
            start, line = start + len(block), line + block.count(b"\n")
    return chunks


def whole_file(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The same as ``lines_of`` for a whole file, however long."""
    return lines_of(path, Chunk(0, path.stat().st_size, 1))


def lines_of(path: Path, chunk: Chunk) -> Iterator[tuple[int, int, bytes]]:
    """Number, place in the file and bytes (with the line feed) of every line of a chunk."""
    with path.open("rb") as file:
        file.seek(chunk.start)
        place = chunk.start
        for number, raw in enumerate(file, start=chunk.line):
            if place >= chunk.end:
                return
            yield number, place, raw
            place += len(raw)


def runs_of(count: int, size: int = 1000) -> list[range]:
    """0 up to ``count`` in runs of at most ``size``, as items for ``over_cores``."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def over_cores(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``map(work, items)``, in this order, computed by one process a core where there are many items.

    The processes are forked: ``work`` and all it holds is there at once, and neither torch nor the caller's main module
    is imported again. They touch no GPU and no thread pool.

    Raises:
        UserError: as ``work`` raised it, for the first item that did.
    """
    processes = _processes() if len(items) >= _FEWEST else 1
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
    """Processes to share work over; 1 where a fork is not safe (macOS) or not allowed (in a dataloader's worker)."""
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears the same Ctrl-C, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.disable()  # what is parsed holds no cycles, and looking for them would copy the parent's memory
    reader.close()  # or this process would outlive a killed parent, waiting for itself to read
    with suppress(BrokenPipeError):
        for item in items:
            try:
                result: Any = work(item)
            except UserError as error:
                result = error
            writer.send(result)
