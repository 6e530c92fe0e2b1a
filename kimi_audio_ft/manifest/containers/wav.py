"""RIFF WAVE: the sizes in its header against what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kimi_audio_ft.manifest.containers import CUT, ContainerError
from kimi_audio_ft.manifest.containers.mpeg import mpeg_streams

# Programs that write into a pipe announce 0xFFFFFFFF, 0x80000000 or 0x7FFFF000 bytes, less the size of the header.
_OPEN = 0x7FFF0000
_MPEG = (0x50, 0x55)  # codecs


@dataclass(frozen=True)
class _Header:
    """order: of bytes. align: bytes of one sample of all channels. begin, size: of the samples as announced."""

    order: Literal["little", "big"]
    codec: int
    align: int
    begin: int
    size: int


def wav_streams(data: bytes, start: int) -> list[bytes] | None:
    if data[start + 8 : start + 12] != b"WAVE":
        return None
    streams: list[bytes] = []
    while start < len(data):
        header = _header(data, start)
        end = _end(data, header)
        if end is None:
            return [*streams, _with_sizes(data, start, header)]
        mpeg = mpeg_streams(data[header.begin : header.begin + header.size], 0) if header.codec in _MPEG else None
        if mpeg is None and not streams and end == len(data):
            return None
        streams += mpeg or [bytes(data[start:end])]
        start = end
    return streams


def _header(data: bytes, start: int) -> _Header:
    order: Literal["little", "big"] = "big" if data[start : start + 4] == b"RIFX" else "little"
    position, codec, align = start + 12, 0, 1
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], order)
        if data[position : position + 4] == b"data":
            return _Header(order, codec, align, position + 8, size)
        if data[position : position + 4] == b"fmt ":
            codec = int.from_bytes(data[position + 8 : position + 10], order)
            align = max(1, int.from_bytes(data[position + 20 : position + 22], order))
        position += 8 + size + size % 2
    raise ContainerError(f"it has no samples behind its header: {CUT}")


def _end(data: bytes, header: _Header) -> int | None:
    """Where the file ends, or the wav that is joined to it begins; None if the header leaves the length open."""
    there = len(data) - header.begin
    if header.size > there:
        if header.size >= _OPEN:
            return None
        raise ContainerError(f"its header announces {header.size} bytes of samples, but {there} are there: {CUT}")
    end = _end_of_chunks(data, header.begin + header.size + header.size % 2, header.order)
    if end is None and header.size:
        problem = f"its header counts {header.size} bytes of samples, and {there - header.size} more follow"
        raise ContainerError(problem, "Write its header anew with `ffmpeg -ignore_length 1 -i IN OUT.flac`")
    return end


def _end_of_chunks(data: bytes, position: int, order: Literal["little", "big"]) -> int | None:
    """As ``_end``, from the first chunk behind the samples; None if no chunks follow."""
    while position < len(data):
        if data[position : position + 4] in (b"RIFF", b"RIFX") and data[position + 8 : position + 12] == b"WAVE":
            return position
        if data[position : position + 3] == b"TAG" and len(data) - position == 128:
            return len(data)
        if not any(data[position:]):
            return len(data)  # padding
        name = bytes(data[position : position + 4])
        size = int.from_bytes(data[position + 4 : position + 8], order)
        if not (name.isascii() and name.decode().isprintable()) or position + 8 + size > len(data):
            return None
        position += 8 + size + size % 2
    return len(data)


def _with_sizes(data: bytes, start: int, header: _Header) -> bytes:
    """The wav up to the file's end with the sizes that are there."""
    size = (len(data) - header.begin) // header.align * header.align
    whole, samples = (number.to_bytes(4, header.order) for number in (header.begin - start - 8 + size, size))
    before = data[start + 8 : header.begin - 4]
    return b"".join((data[start : start + 4], whole, before, samples, data[header.begin : header.begin + size]))
