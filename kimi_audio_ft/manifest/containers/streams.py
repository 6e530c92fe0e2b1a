"""Audio containers read far enough to tell a whole file from a damaged one.

libsndfile reads a cut file without a word, stops after the first of several joined streams, and believes a header that
leaves the length open. Here the container's own structure says where a recording ends.
"""

from __future__ import annotations

from collections.abc import Callable

from kimi_audio_ft.manifest.containers.flac import flac_streams
from kimi_audio_ft.manifest.containers.mpeg import after_id3, frame_at, mpeg_streams
from kimi_audio_ft.manifest.containers.ogg import ogg_streams
from kimi_audio_ft.manifest.containers.others import au_streams, caf_streams, nist_streams
from kimi_audio_ft.manifest.containers.wav import wav_streams


def streams_of(data: bytes) -> list[bytes] | None:
    """Checks the container of ``data`` (bytes or a memory map) for its end.

    Returns None for a whole file of one stream, or of a kind that is not known here. Otherwise complete files to decode
    in its place: each of joined streams, or the file with the length that its header leaves open.

    Raises:
        ContainerError: the file is cut, damaged, or has samples that its header does not count.
    """
    start = after_id3(data, 0)
    for magic, check in _CHECKS.items():
        if data[start : start + len(magic)] == magic:
            return check(data, start)
    return None if frame_at(data, start) is None else mpeg_streams(data, start)


_CHECKS: dict[bytes, Callable[[bytes, int], list[bytes] | None]] = {
    b"RIFF": wav_streams,
    b"RIFX": wav_streams,
    b"fLaC": flac_streams,
    b"OggS": ogg_streams,
    b".snd": au_streams,
    b"caff": caf_streams,
    b"NIST_1A": nist_streams,
}
