"""MPEG audio (MP3): frames are counted, so that a stream's length is known whatever its header says."""

from __future__ import annotations

from itertools import product

from kimi_audio_ft.manifest.containers import CONVERT, CUT, ContainerError

_KBPS = {  # by (is MPEG-1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_DIVIDED_BY = {3: 1, 2: 2, 0: 4}  # sample rates of MPEG-1, MPEG-2 and MPEG-2.5, by the version's bits
_ALL_BUT_CHECKSUM_AND_PRIVATE = 0xFFFEFE
_KIND = 0xFFFE0C  # version, layer and sample rate, which all frames of a stream share


def _frame_sizes() -> dict[int, int]:
    """Size of a frame in bytes, by the first three bytes of its header without checksum and private bits."""
    sizes = {}
    for version, layer, rate, padding in product(_DIVIDED_BY, (1, 2, 3), range(3), (0, 1)):
        hertz = (44100, 48000, 32000)[rate] // _DIVIDED_BY[version]
        for index, kbps in enumerate(_KBPS[version == 3, layer], start=1):
            key = 0xFFE000 | version << 11 | (4 - layer) << 9 | index << 4 | rate << 2 | padding << 1
            slots = 144000 if version == 3 or layer == 2 else 72000
            is_layer_1 = layer == 1
            sizes[key] = (12000 * kbps // hertz + padding) * 4 if is_layer_1 else slots * kbps // hertz + padding
    return sizes


_FRAME_SIZES = _frame_sizes()


def frame_at(data: bytes, position: int) -> tuple[int, int] | None:
    """Kind and size of the MPEG audio frame here, or None."""
    head = int.from_bytes(data[position : position + 3], "big")
    size = _FRAME_SIZES.get(head & _ALL_BUT_CHECKSUM_AND_PRIVATE)
    return None if size is None else (head & _KIND, size)


def mpeg_streams(data: bytes, start: int) -> list[bytes] | None:
    """Streams of an MP3 file, each with the number of its frames in front; None if it is one that has that already.

    Only streams whose header is right are given to the decoder: it guesses the length of others, and prints warnings
    that name no file.
    """
    streams: list[_Stream] = []
    position, kind = start, 0
    while (position := _after_tags(data, position)) < len(data):
        frame = frame_at(data, position)
        if frame is None or frame[0] != (kind or frame[0]):
            raise ContainerError(f"byte {position} of {len(data)} begins no MP3 frame: it is damaged, or {CUT}")
        kind, size = frame
        if position + size > len(data):
            raise ContainerError(f"its last frame ends {position + size - len(data)} bytes after the file: {CUT}")
        if not streams or _length_tag(data, position) is not None:
            streams.append(_Stream(data, position))
        streams[-1].add(position, size)
        position += size
    if kind >> 9 & 3 != 1:
        raise ContainerError("it is MPEG audio of layer I or II, whose length the decoder only guesses", CONVERT)
    files = [stream.with_length() for stream in streams]
    if len(files) == 1 and streams[0].is_plain:
        return None
    return files


class _Stream:
    """Frames of layer III that belong together; ``is_plain`` tells whether the decoder can be given the file itself."""

    def __init__(self, data: bytes, begin: int) -> None:
        self.data, self.begin, self.frames = data, begin, 0
        self.spans = [[begin, begin]]
        self.is_plain = False

    def add(self, position: int, size: int) -> None:
        self.frames += 1
        if self.spans[-1][1] == position:
            self.spans[-1][1] += size
        else:
            self.spans.append([position, position + size])

    def with_length(self) -> bytes:
        """The frames behind one that announces their number; ContainerError if the stream's own announces another."""
        data, tag = self.data, _length_tag(self.data, self.begin)
        stream = b"".join(data[begin:end] for begin, end in self.spans)
        sound = stream if tag is None else stream[_size_at(data, self.begin) :]
        if sound and _needs_earlier_frames(sound):
            raise ContainerError("its start is missing: its first frame needs an earlier one")
        if tag is None:
            return _announcing(sound, self.frames) + sound
        flags, announced, size = (int.from_bytes(data[tag + at : tag + at + 4], "big") for at in (4, 8, 12))
        if not flags & 1:
            return _announcing(sound, self.frames - 1) + sound if sound else stream
        # Some encoders count the announcing frame as well.
        if announced not in (self.frames - 1, self.frames):
            says = CUT if announced > self.frames else "it holds more than its header counts"
            raise ContainerError(f"its header announces {announced} frames, and {self.frames - 1} are there: {says}")
        if not flags & 2:
            self.is_plain = True
            return stream
        tolerance = len(stream) // 200
        self.is_plain = max(abs(size - len(stream)), abs(len(data) - len(stream))) <= tolerance
        at = tag - self.begin + 12
        return stream[:at] + len(stream).to_bytes(4, "big") + stream[at + 4 :]


def _size_at(data: bytes, position: int) -> int:
    frame = frame_at(data, position)
    assert frame is not None
    return frame[1]


def _side_information(data: bytes, position: int) -> tuple[int, int]:
    """Where the side information of a layer III frame begins behind header and checksum, and its length in bytes."""
    has_checksum = not data[position + 1] & 1
    is_mono = data[position + 3] >> 6 == 3
    lengths = (17, 32) if data[position + 1] >> 3 & 3 == 3 else (9, 17)
    return position + 4 + 2 * has_checksum, lengths[not is_mono]


def _length_tag(data: bytes, position: int) -> int | None:
    """Where the tag with the stream's length begins, if this frame holds one in place of sound."""
    begin, length = _side_information(data, position)
    for at in (begin + length, position + 4 + length):  # LAME leaves no room for the checksum
        if data[at : at + 4] in (b"Xing", b"Info"):
            return at
    return None


def _needs_earlier_frames(stream: bytes) -> bool:
    """Whether the first frame's sound begins in a frame before it."""
    begin, _ = _side_information(stream, 0)
    bits = int.from_bytes(stream[begin : begin + 2], "big")
    return bits >> (7 if stream[1] >> 3 & 3 == 3 else 8) > 0


def _announcing(stream: bytes, frames: int) -> bytes:
    """A frame without sound, of the kind of the stream's first, that announces its number of frames."""
    head = bytes([stream[0], stream[1] | 1, 0xE0 | stream[2] & 0x0C, stream[3]])
    size = _size_at(head, 0)
    _, length = _side_information(head, 0)
    numbers = (number.to_bytes(4, "big") for number in (3, frames, size + len(stream)))
    return b"".join((head, bytes(length), b"Info", *numbers)).ljust(size, b"\0")


def after_id3(data: bytes, position: int) -> int:
    """Where the file goes on behind ID3v2 tags at ``position``."""
    while data[position : position + 3] == b"ID3" and position + 10 <= len(data):
        size = 0
        for byte in data[position + 6 : position + 10]:
            size = size << 7 | byte & 0x7F
        position += 10 + size + (10 if data[position + 5] & 0x10 else 0)
    return position


def _after_tags(data: bytes, position: int) -> int:
    """Where the next frame begins, behind tags of all kinds and zeros; the file's end if there is none."""
    while position < len(data) and data[position] != 0xFF:
        begin = position
        position = after_id3(data, position)
        if data[position : position + 3] == b"TAG":
            position += 128
        elif data[position : position + 8] == b"APETAGEX":
            position += 32 + int.from_bytes(data[position + 12 : position + 16], "little")
        elif data[position : position + 11] == b"LYRICSBEGIN":
            end = max(data.find(b"LYRICS200", position), data.find(b"LYRICSEND", position))
            position = end + 9 if end >= 0 else position
        while position < len(data) and data[position] == 0:
            position += 1
        if position == begin:
            break
    return min(position, len(data))
