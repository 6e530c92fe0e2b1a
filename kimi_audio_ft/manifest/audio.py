"""Audio decoding: a recording, or a part of it, becomes 16 kHz mono, or is refused.

libsndfile decodes what it knows, the ``ffmpeg`` command the rest where it is installed. Decoding is separate from
resampling, so that checking recordings needs neither torch nor resampling.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.manifest.containers import CONVERT, ContainerError
from kimi_audio_ft.manifest.containers.others import log_problem
from kimi_audio_ft.manifest.containers.streams import streams_of
from kimi_audio_ft.manifest.ffmpeg import READ_FORMATS, wav_by_ffmpeg
from kimi_audio_ft.manifest.part import WHOLE, Part
from kimi_audio_ft.store.digests import State, state_of

if TYPE_CHECKING:  # soundfile, too, only where a file is opened: a sweep with everything stored opens none
    import soundfile
    import torch

SAMPLE_RATE = 16_000
"""Rate in Hz of every waveform behind this module: what Whisper and the speech tokenizer hear."""

# Lossy codecs overshoot full scale by a few dB, which is clipped. Samples 12 dB above it are in another unit (such as
# 16-bit integers stored as floats); clipping would turn them into noise.
_MAX_PEAK = 4.0
# torchaudio stores one filter per output phase; beyond this many taps (44,100 Hz needs 70,560) that takes gigabytes.
_MAX_RESAMPLING_TAPS = 2**26
_BLOCK = 2**20  # samples decoded at a time
_HEADERS_AT_ONCE = 1000
_UNKNOWN_LENGTH = 2**63 - 1  # SF_COUNT_MAX, reported by libsndfile where a header leaves it open
_CHECKED_BEFORE = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")  # by `streams_of`
# Channels in antiphase leave less than this part of their energy in their mean.
_LEAST_LEFT_OF_CHANNELS = 0.01


class AudioError(DataError):
    """An unusable recording; ``reason`` is its code in ``rejected.jsonl``."""

    def __init__(self, reason: str, path: str | Path, problem: str, remedy: str = "") -> None:
        super().__init__(path, problem, remedy)
        self.reason = reason


@dataclass(frozen=True)
class AudioInfo:
    """Length and format from a recording's header."""

    num_samples_16k: int  # length of `read_audio`'s result
    seconds: float
    sample_rate: int  # of the file, in Hz
    channels: int


@dataclass(frozen=True)
class Recording:
    """A recording whose container is whole; streams: files to decode in its place, where libsndfile would misread it.

    num_samples: of each channel, of all streams together, or of the part. channels: of the file.
    part: what is decoded of it, from sample ``first`` on.
    """

    path: str
    streams: tuple[bytes, ...] | None
    num_samples: int
    sample_rate: int
    channels: int
    part: Part = WHOLE
    first: int = 0

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate

    @property
    def name(self) -> str:
        """Its path and part, for messages."""
        return self.part.name_in(self.path)

    def only(self, part: Part) -> Recording:
        """A part of this whole recording; AudioError if it has no such part."""
        if problem := part.problem_of_time(self.num_samples, self.sample_rate):
            remedy = "Give start and end in seconds from the recording's beginning"
            raise AudioError("bad_segment", part.name_in(self.path), problem, remedy)
        if problem := part.problem_of_channel(self.channels):
            raise AudioError("no_channel", part.name_in(self.path), problem, "Name one that it has")
        first, stop = part.samples(self.num_samples, self.sample_rate)
        return replace(self, num_samples=stop - first, part=part, first=first)


@dataclass(frozen=True)
class Sound:
    """Decoded samples ``[num_samples, channels]`` float32 at the recording's own rate in Hz."""

    samples: np.ndarray
    sample_rate: int

    def mono(self) -> np.ndarray:
        """The mean of all channels, ``[num_samples]``."""
        return self.samples[:, 0] if self.samples.shape[1] == 1 else self.samples.mean(axis=1, dtype=np.float32)

    def digest(self) -> str:
        """SHA-256 of the samples, before channels are mixed: independent of the container (wav or flac) and of tags.

        Equal channels count as one.
        """
        samples = self.samples
        if samples.shape[1] > 1 and (samples == samples[:, :1]).all():
            samples = samples[:, :1]
        return content_digest(samples, self.sample_rate)


def open_recording(path: str | Path, part: Part = WHOLE, longest: float | None = None) -> Recording:
    """Checks a recording's container and reads its header.

    Args:
        longest: seconds; of a whole recording that has to be decoded for its length hardly more is decoded, so that it
            is longer than that, too.

    AudioError: it is missing, unreadable, cut or empty, or has no such part.
    """
    _check_file(path)
    if part == WHOLE:
        return _opened(path, longest)
    # Checking a container takes as long as its file is large, and a recording may have thousands of parts.
    file = str(path), state_of(Path(path).stat())
    with _OPENING:
        recording = _opened_before(*file)
    return recording.only(part)


_OPENING = Lock()  # or several threads would open the same recording at once
# The last recordings of which a part was asked for, by path and state: those that are decoded from their files, and the
# others, which are in memory as a whole.
_FROM_FILES: dict[tuple[str, State], Recording] = {}
_IN_MEMORY: dict[tuple[str, State], Recording] = {}
_MOST_FROM_FILES, _MOST_IN_MEMORY = 1024, 2


def _opened_before(path: str, state: State) -> Recording:
    """A recording, opened once while its file stays as it is."""
    key = (path, state)
    known = _FROM_FILES.get(key) or _IN_MEMORY.get(key)
    if known is not None:
        return known
    recording = _opened(path)
    kept, most = (_FROM_FILES, _MOST_FROM_FILES) if recording.streams is None else (_IN_MEMORY, _MOST_IN_MEMORY)
    while len(kept) >= most:
        del kept[next(iter(kept))]  # the oldest
    kept[key] = recording
    return recording


def _opened(path: str | Path, longest: float | None = None) -> Recording:
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # A memory map is sliced and searched as bytes are.
            streams = streams_of(data)  # type: ignore[arg-type]
        sources: Sequence[str | bytes] = streams or [str(path)]
        headers = [_header(source) for source in sources]
        if streams is None and headers[0] is None:
            streams = streams_of(wav := wav_by_ffmpeg(path, longest)) or [wav]
            headers = [_header(source) for source in streams]
    except ContainerError as error:
        raise AudioError("unreadable_audio", path, str(error), error.remedy) from None
    except OSError as error:
        raise AudioError("unreadable_audio", path, f"cannot be read ({error.strerror})", "Check the file") from None
    return _recording(path, streams, headers)


def audio_info(path: str | Path, part: Part = WHOLE) -> AudioInfo:
    """Length and format of a recording from its header; errors as of ``open_recording``."""
    found = open_recording(path, part)
    length = num_samples_16k(found.num_samples, found.sample_rate)
    return AudioInfo(length, found.seconds, found.sample_rate, found.channels)


def lengths_16k(paths: Sequence[str | Path], parts: Sequence[Part]) -> np.ndarray:
    """``num_samples_16k`` of these parts of many recordings, int64 ``[len(paths)]``, as ``audio_info`` in 8 threads."""
    starts = range(0, len(paths), _HEADERS_AT_ONCE)
    batches = (slice(start, start + _HEADERS_AT_ONCE) for start in starts)
    with ThreadPoolExecutor(8) as pool:
        infos = (info for batch in batches for info in pool.map(audio_info, paths[batch], parts[batch]))
        return np.fromiter((info.num_samples_16k for info in infos), np.int64)


def num_samples_16k(num_samples: int, sample_rate: int) -> int:
    """Number of samples after resampling to 16 kHz: ``ceil(16000 * num_samples / sample_rate)`` in exact integers."""
    return -(-num_samples * SAMPLE_RATE // sample_rate)


def decode(recording: Recording) -> Sound:
    """All samples of a recording, or of its part.

    Raises:
        AudioError: fewer samples than its header announces; NaN, infinite or far out-of-range samples; channels that
            cancel each other in their mean.
    """
    part = recording.part
    blocks = list(_blocks(recording) if part.start is None else _blocks_of_part(recording))
    samples = np.concatenate(blocks) if blocks else np.zeros((0, recording.channels), np.float32)
    if recording.num_samples != len(samples):
        announced = f"its header announces {recording.num_samples} samples"
        problem = f"{announced} but only {len(samples)} can be decoded: the file is cut"
        raise AudioError("unreadable_audio", recording.name, problem, "Copy or export it again")
    heard = samples if part.channel is None else samples[:, part.channel : part.channel + 1]
    sound = Sound(heard, recording.sample_rate)
    _check_samples(sound, recording.name)
    return sound


def decode_mono(path: str | Path, part: Part = WHOLE) -> tuple[np.ndarray, int]:
    """Decodes at the file's own rate: ``([num_samples] float32, sample_rate in Hz)``; channels are averaged.

    Errors as of ``open_recording`` and ``decode``.
    """
    sound = decode(open_recording(path, part))
    return sound.mono(), sound.sample_rate


def read_audio(path: str | Path, part: Part = WHOLE) -> torch.Tensor:
    """``[num_samples]`` float32 at 16 kHz in [-1, 1], clipped above full scale; errors as of ``decode_mono``."""
    return waveform_of(open_recording(path, part))


def waveform_of(recording: Recording) -> torch.Tensor:
    """``read_audio`` of a recording that is open; errors as of ``decode``."""
    import torch
    from torchaudio.functional import resample

    sound = decode(recording)
    samples, rate = sound.mono(), sound.sample_rate
    waveform = torch.from_numpy(samples)
    if rate != SAMPLE_RATE:
        # torchaudio computes its output length in float32, which is a sample short from about 4 s on. Pad a second of
        # silence (as its filter assumes anyway), then cut to the exact length.
        padded = torch.nn.functional.pad(waveform, (0, rate))
        waveform = resample(padded, rate, SAMPLE_RATE)[: num_samples_16k(len(samples), rate)]
    return waveform.clamp(-1.0, 1.0)


def content_digest(samples: np.ndarray, sample_rate: int) -> str:
    """SHA-256 of samples ``[num_samples]`` or ``[num_samples, channels]``."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    kind = f"{sample_rate}\n" if channels == 1 else f"{sample_rate} {channels}\n"
    digest = hashlib.sha256(kind.encode())
    digest.update(np.ascontiguousarray(samples, dtype="<f4").data)
    return digest.hexdigest()


@contextmanager
def _sound_file(source: str | bytes) -> Iterator[soundfile.SoundFile]:
    """A file as libsndfile opens it by its content.

    By its name it would take any .au, .gsm or .vox for samples without a header, and print warnings about any .mp3.
    """
    import soundfile

    if isinstance(source, bytes):
        with soundfile.SoundFile(io.BytesIO(source)) as file:
            yield file
    else:
        descriptor = os.open(source, os.O_RDONLY)
        try:
            with soundfile.SoundFile(descriptor, closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Header:
    """A file's header as libsndfile reads it; problem: why it cannot be used, or None."""

    format: str
    num_samples: int
    sample_rate: int
    channels: int
    problem: str | None


def _header(source: str | bytes) -> _Header | None:
    """The header of a file, or None if libsndfile does not open it."""
    import soundfile

    try:
        with _sound_file(source) as file:
            return _Header(file.format, file.frames, file.samplerate, file.channels, _format_problem(file))
    except soundfile.SoundFileError:
        return None


def _recording(path: str | Path, streams: list[bytes] | None, headers: Sequence[_Header | None]) -> Recording:
    found = [header for header in headers if header is not None]
    if len(found) < len(headers):
        raise AudioError("unreadable_audio", path, "not a readable recording", READ_FORMATS)
    problem = next((header.problem for header in found if header.problem), None)
    if problem:
        raise AudioError("unreadable_audio", path, problem, CONVERT)
    kinds = list(dict.fromkeys((header.sample_rate, header.channels) for header in found))
    if len(kinds) > 1:
        joined = " and ".join(f"{rate} Hz with {channels} channels" for rate, channels in kinds)
        raise AudioError("unreadable_audio", path, f"it joins recordings of {joined}", "Take them apart")
    total = sum(header.num_samples for header in found)
    if total == 0:
        raise AudioError("empty_audio", path, "the recording has 0 samples; it needs at least 1", "Leave it out")
    return Recording(str(path), None if streams is None else tuple(streams), total, *kinds[0])


def _format_problem(file: soundfile.SoundFile) -> str | None:
    if file.frames == _UNKNOWN_LENGTH:
        return "its header leaves its length open, as that of a stream does"
    rate = file.samplerate
    common = math.gcd(rate, SAMPLE_RATE)
    if (rate // common) * (SAMPLE_RATE // common) > _MAX_RESAMPLING_TAPS:
        return f"its sample rate of {rate} Hz has too little in common with 16000 Hz to be converted here"
    return None if file.format in _CHECKED_BEFORE else log_problem(file.extra_info, file.frames)


def _blocks(recording: Recording) -> Iterator[np.ndarray]:
    """Decoded blocks ``[num_samples, channels]`` float32; memory is not allocated by the length in the header."""
    for source in recording.streams or [recording.path]:
        with _decoding(recording.name), _sound_file(source) as file:
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                yield block


def _blocks_of_part(recording: Recording) -> Iterator[np.ndarray]:
    """Decoded samples ``[num_samples, channels]`` float32 of the part, one block of every stream that it lies in."""
    first, before = recording.first, 0
    stop = first + recording.num_samples
    for source in recording.streams or [recording.path]:
        with _decoding(recording.name), _sound_file(source) as file:
            start, end = max(0, first - before), min(stop - before, file.frames)
            if start < end:
                file.seek(start)
                yield file.read(end - start, dtype="float32", always_2d=True)
            before += file.frames


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    import soundfile

    try:
        yield
    except soundfile.SoundFileError as error:
        raise AudioError("unreadable_audio", name, f"decoding failed ({error})", "Copy or export it again") from None


def _check_file(path: str | Path) -> None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise AudioError("missing_audio", path, f"no such recording ({cause})", "Check the path") from None
    if not Path(path).is_file():
        raise AudioError("missing_audio", path, "this is not a file", "Name a recording, not its folder")
    if status.st_size == 0:
        raise AudioError("empty_audio", path, "the file has 0 bytes", "Copy or export it again")


def _check_samples(sound: Sound, path: str) -> None:
    mono = sound.mono()
    bad = np.flatnonzero(~np.isfinite(mono))
    if len(bad):
        problem = f"{len(bad)} of {len(mono)} samples are NaN or infinite, the first at sample {bad[0]}"
        raise AudioError("nan_samples", path, problem, "Export the recording again")
    peak = float(np.abs(sound.samples).max())
    if peak > _MAX_PEAK:
        problem = f"samples reach {peak:g}; floating-point recordings must lie in [-1, 1]"
        raise AudioError("samples_out_of_range", path, problem, "Divide by full scale (32768 for 16-bit samples)")
    channels = sound.samples.shape[1]
    if channels > 1 and np.vdot(mono, mono) * channels < _LEAST_LEFT_OF_CHANNELS * np.vdot(
        sound.samples, sound.samples
    ):
        problem = f"its {channels} channels cancel each other: their mean is all but silent"
        raise AudioError(
            "cancelling_channels",
            path,
            problem,
            "Invert one of them, or take one: channel_column of prepare names it",
        )
