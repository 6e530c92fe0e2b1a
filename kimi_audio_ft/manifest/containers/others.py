"""AU, CAF and NIST SPHERE, whose headers libsndfile believes or ignores; and what it writes into its log on opening."""

from __future__ import annotations

import re

from kimi_audio_ft.manifest.containers import CUT, ContainerError


def au_streams(data: bytes, start: int) -> list[bytes] | None:
    offset, size = (int.from_bytes(data[start + at : start + at + 4], "big") for at in (4, 8))
    if size != 0xFFFFFFFF and start + offset + size < len(data):
        rest = len(data) - start - offset - size
        raise ContainerError(f"{rest} bytes behind its {size} bytes of samples are not counted in its header")
    return None


def caf_streams(data: bytes, start: int) -> list[bytes] | None:
    position = start + 8
    while position + 12 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 12], "big", signed=True)
        if size == -1 and data[position : position + 4] == b"data":
            return None  # up to the end of the file
        if size < 0 or not bytes(data[position : position + 4]).isalnum():
            break
        position += 12 + size
    if position < len(data) and not any(data[position : position + 65536]):
        return None
    if position != len(data):
        problem = f"its chunks end at byte {position} of {len(data)}: {CUT}, or has more than its header counts"
        raise ContainerError(problem)
    return None


def nist_streams(data: bytes, start: int) -> list[bytes] | None:
    head = bytes(data[start : start + 1024])
    count, size, channels = (
        re.search(rb"^%b +-i +(\d+)" % name, head, re.MULTILINE)
        for name in (b"sample_count", b"sample_n_bytes", b"channel_count")
    )
    coding = re.search(rb"^sample_coding +-s\d+ +(\S+)", head, re.MULTILINE)
    length = re.match(rb"NIST_1A\s+(\d+)", head)
    if not (count and size and length) or (coding and b"," in coding[1]):
        return None
    expected = int(count[1]) * int(size[1]) * int(channels[1] if channels else 1)
    there = len(data) - start - int(length[1])
    if expected != there:
        says = CUT if expected > there else "it holds more than its header counts"
        raise ContainerError(f"its header announces {expected} bytes of samples, and {there} are there: {says}")
    return None


def log_problem(log: str, frames: int) -> str | None:
    """The disagreement of header and file that libsndfile wrote into its log on opening, or None."""
    for announced in re.findall(r"\b(?:Frames|Cols) *: *(\d+)", log):
        if int(announced) > frames:
            return f"its header announces {announced} samples, but {frames} are there: {CUT}"
    for line in log.splitlines():
        disagrees = "should be" in line and re.match(r" *(SSND|BODY|[dD]ata|riff|Riff)\b", line)
        if disagrees or "Exiting parser" in line or "truncated" in line:
            return f"header and file disagree ({' '.join(line.split())}): {CUT}, or has more than its header counts"
    return None
