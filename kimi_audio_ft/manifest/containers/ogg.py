"""Ogg pages: whole, in order and with right checksums; chained streams are taken apart."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from kimi_audio_ft.manifest.containers import CONVERT, CUT, ContainerError


@dataclass(frozen=True)
class _Page:
    begin: int
    end: int
    is_first: bool
    is_last: bool
    serial: int
    number: int


def ogg_streams(data: bytes, start: int) -> list[bytes] | None:
    """The links of a chained file; each is a stream of its own, or several that are interleaved."""
    links: list[int] = []
    numbers: dict[int, int] = {}
    unfinished: set[int] = set()
    for page in _ogg_pages(data, start):
        if page.is_first:
            if not unfinished:
                links.append(page.begin)
                numbers = {}
            unfinished.add(page.serial)
        elif page.serial not in numbers:
            raise ContainerError(f"its start is missing (page {page.number} comes first)")
        elif page.number != numbers[page.serial] + 1:
            missing = f"page {page.number} follows page {numbers[page.serial]}"
            raise ContainerError(f"a part is missing at byte {page.begin} ({missing})")
        numbers[page.serial] = page.number
        if page.is_last:
            unfinished.discard(page.serial)
    if unfinished:
        problem = f"its last page is not marked as the end: {CUT}, or its program was stopped"
        raise ContainerError(problem, f"{CONVERT} if it sounds whole")
    ends = [*links[1:], len(data)]
    return None if len(links) == 1 else [bytes(data[begin:end]) for begin, end in zip(links, ends, strict=True)]


def _ogg_pages(data: bytes, start: int) -> Iterator[_Page]:
    begin = start
    while begin < len(data):
        head = bytes(data[begin : begin + 27])
        if head[:4] != b"OggS":
            raise ContainerError(f"byte {begin} of {len(data)} begins no Ogg page: it is damaged")
        table = bytes(data[begin + 27 : begin + 27 + head[-1]]) if len(head) == 27 else b""
        end = begin + 27 + len(table) + sum(table)
        if len(head) < 27 or len(table) < head[-1] or end > len(data):
            raise ContainerError(f"it ends inside a page (at byte {len(data)}): {CUT}")
        page = head[:22] + bytes(4) + data[begin + 26 : end]
        if _ogg_crc(page) != int.from_bytes(head[22:26], "little"):
            raise ContainerError(f"the page at byte {begin} has a wrong checksum: it is damaged")
        serial, number = (int.from_bytes(head[at : at + 4], "little") for at in (14, 18))
        yield _Page(begin, end, bool(head[5] & 2), bool(head[5] & 4), serial, number)
        begin = end


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    """CRC-32 of the polynomial of zlib's, most significant bit first and without its inversions."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
