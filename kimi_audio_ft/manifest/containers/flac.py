"""FLAC: joined streams, and the length that an encoder leaves open when it writes into a pipe."""

from __future__ import annotations

import re

from kimi_audio_ft.manifest.containers import CUT, ContainerError

_BEGINNING = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


def flac_streams(data: bytes, start: int) -> list[bytes] | None:
    starts = [start, *(match.start() for match in _BEGINNING.finditer(data, start + 4))]
    if len(data) < start + 42:
        raise ContainerError(f"it ends in its header: {CUT}")
    if len(starts) == 1 and _announces_length(data, start):
        return None
    ends = [*starts[1:], len(data)]
    return [_with_length(bytes(data[begin:end])) for begin, end in zip(starts, ends, strict=True)]


def _announces_length(data: bytes, start: int) -> bool:
    return bool(data[start + 21] & 0x0F or any(data[start + 22 : start + 26]))


def _with_length(stream: bytes) -> bytes:
    """The stream with its number of samples in its header, which an encoder that writes into a pipe leaves open."""
    if _announces_length(stream, 0):
        return stream
    end = len(stream)
    while (begin := max(stream.rfind(sync, 42, end) for sync in (b"\xff\xf8", b"\xff\xf9"))) >= 0:
        if _crc16(stream[begin:]) == 0:  # a frame ends with the remainder that makes it 0
            total = _end_of_frame(stream, begin)
            return stream[:21] + bytes([stream[21] & 0xF0]) + b"".join((total.to_bytes(4, "big"), stream[26:]))
        if len(stream) - begin > 1 << 20:
            break
        end = begin + 1
    raise ContainerError(f"its header leaves its length open, and its last frame is not whole: {CUT}")


def _end_of_frame(stream: bytes, begin: int) -> int:
    """Number of samples up to the end of the FLAC frame at ``begin``."""
    code, first = stream[begin + 2] >> 4, stream[begin + 4]
    ones = 8 - (first ^ 0xFF).bit_length()
    number, follow = (first & (0x7F >> ones) if ones else first), max(0, ones - 1)
    for byte in stream[begin + 5 : begin + 5 + follow]:
        number = number << 6 | byte & 0x3F
    after = begin + 5 + follow
    if code == 6:
        size = stream[after] + 1
    elif code == 7:
        size = int.from_bytes(stream[after : after + 2], "big") + 1
    else:
        size = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    is_counted_in_samples = stream[begin + 1] & 1
    return number + size if is_counted_in_samples else number * int.from_bytes(stream[8:10], "big") + size


def _crc16(frame: bytes) -> int:
    crc = 0
    for byte in frame:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _crc16_of(byte: int) -> int:
    crc = byte << 8
    for _ in range(8):
        crc = (crc << 1 ^ (0x8005 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


_CRC16 = tuple(map(_crc16_of, range(256)))
