"""Reading recordings: any file libsndfile opens becomes 16 kHz mono; the errors say what is wrong with a file.

Decoding is kept apart from resampling, so that checking ten thousand recordings needs neither torch nor 16 kHz.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from torch import Tensor

from kimi_audio_ft.errors import DataError

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16_000
"""Rate in Hz of every waveform behind this module: what Whisper and the speech tokenizer hear."""

# Lossy codecs overshoot full scale by a few dB, which clipping forgives; 12 dB above it is not sound but samples
# in another unit (16-bit integers stored as floats), which clipping would turn into noise.
_MAX_PEAK = 4.0
# torchaudio holds one filter per output phase; beyond this many taps (44,100 Hz needs 70,560) it fills gigabytes.
_MAX_RESAMPLING_TAPS = 2**26
_BLOCK = 2**20  # samples decoded at a time
_HEADERS_AT_ONCE = 1000
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's SF_COUNT_MAX, which it reports for streamed FLAC
_FORMATS = "Readable formats are wav, flac, mp3 and ogg; convert others with `ffmpeg -i IN -ar 16000 OUT.wav`"


class AudioError(DataError):
    """A recording cannot be used; ``reason`` is its code in ``rejected.jsonl``."""

    def __init__(self, reason: str, path: str | Path, problem: str, remedy: str = "") -> None:
        super().__init__(path, problem, remedy)
        self.reason = reason


@dataclass(frozen=True)
class AudioInfo:
    """What a recording's header says."""

    num_samples_16k: int  # length of `read_audio`'s result
    seconds: float
    sample_rate: int  # of the file, in Hz
    channels: int


def audio_info(path: str | Path) -> AudioInfo:
    """Length and format of a recording without decoding it.

    Raises:
        AudioError: the file is missing, unreadable or without samples.
    """
    with _open(path) as file:
        frames, rate, channels = file.frames, file.samplerate, file.channels
    if frames == 0:
        raise _no_samples(path)
    return AudioInfo(num_samples_16k(frames, rate), frames / rate, rate, channels)


def lengths_16k(paths: Sequence[str | Path], threads: int = 8) -> np.ndarray:
    """``num_samples_16k`` of many recordings' headers, int64 ``[len(paths)]``; several are read at a time.

    Raises:
        AudioError: as ``audio_info`` of one of them.
    """
    lengths = np.zeros(len(paths), np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), _HEADERS_AT_ONCE):
            some = paths[start : start + _HEADERS_AT_ONCE]
            lengths[start : start + len(some)] = [info.num_samples_16k for info in pool.map(audio_info, some)]
    return lengths


def num_samples_16k(num_samples: int, sample_rate: int) -> int:
    """Samples after resampling to 16 kHz: ``ceil(16000 * num_samples / sample_rate)`` in exact integers."""
    return -(-num_samples * SAMPLE_RATE // sample_rate)


def decode_mono(path: str | Path) -> tuple[np.ndarray, int]:
    """A recording at its own rate: ``([num_samples] float32, sample_rate in Hz)``; channels are averaged.

    Raises:
        AudioError: missing, unreadable or cut file, no samples, NaN or infinite samples, samples far outside [-1, 1].
    """
    with _open(path) as file:
        blocks = [block.mean(axis=1, dtype=np.float32) for block in _blocks(file, path)]
        announced, rate = file.frames, file.samplerate
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if announced != len(samples):
        problem = f"its header announces {announced} samples but only {len(samples)} can be decoded: the file is cut"
        raise AudioError("unreadable_audio", path, problem, "Copy or export it again")
    if len(samples) == 0:
        raise _no_samples(path)
    _check_samples(samples, path)
    return samples, rate


def read_audio(path: str | Path) -> torch.Tensor:
    """A recording as ``[num_samples]`` float32 at 16 kHz in [-1, 1]; peaks above full scale are clipped.

    Raises:
        AudioError: see ``decode_mono``.
    """
    import torch
    from torchaudio.functional import resample

    samples, rate = decode_mono(path)
    waveform = torch.from_numpy(samples)
    if rate != SAMPLE_RATE:
        # torchaudio computes its output length in float32, which loses a sample from about 4 s on; a second of silence
        # behind the end (what its filter assumes there anyway) leaves enough to cut at the exact length.
        padded = torch.nn.functional.pad(waveform, (0, rate))
        waveform = resample(padded, rate, SAMPLE_RATE)[: num_samples_16k(len(samples), rate)]
    return waveform.clamp(-1.0, 1.0)


def content_digest(samples: np.ndarray, sample_rate: int) -> str:
    """SHA-256 of decoded mono samples: equal for a wav and the flac made from it, or for two differently tagged files.

    Args:
        samples: ``[num_samples]`` float32 in [-1, 1], as ``decode_mono`` returns them.
        sample_rate: Hz; the same samples at another rate are another sound.
    """
    digest = hashlib.sha256(f"{sample_rate}\n".encode())
    digest.update(np.ascontiguousarray(samples, dtype="<f4").data)
    return digest.hexdigest()


def _open(path: str | Path) -> soundfile.SoundFile:
    _check_file(path)
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.SoundFileError as error:
        raise AudioError("unreadable_audio", path, f"not a readable recording ({error})", _FORMATS) from None
    problem = _format_problem(file)
    if problem:
        file.close()
        raise AudioError("unreadable_audio", path, problem, "Convert it with `ffmpeg -i IN -ar 16000 OUT.wav`")
    return file


def _format_problem(file: soundfile.SoundFile) -> str | None:
    if file.frames == _UNKNOWN_LENGTH:
        return "its header leaves its length open, as that of a stream does"
    rate = file.samplerate
    common = math.gcd(rate, SAMPLE_RATE)
    if (rate // common) * (SAMPLE_RATE // common) > _MAX_RESAMPLING_TAPS:
        return f"its sample rate of {rate} Hz has too little in common with 16000 Hz to be converted here"
    return None


def _blocks(file: soundfile.SoundFile, path: str | Path) -> Iterator[np.ndarray]:
    """Decoded pieces ``[num_samples, channels]`` float32: a length that the header invents must not fill the memory."""
    try:
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            yield block
    except soundfile.SoundFileError as error:
        raise AudioError("unreadable_audio", path, f"decoding failed ({error})", "Copy or export it again") from None


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


def _no_samples(path: str | Path) -> AudioError:
    return AudioError("empty_audio", path, "the recording has 0 samples; it needs at least 1", "Leave it out")


def _check_samples(samples: np.ndarray, path: str | Path) -> None:
    bad = np.flatnonzero(~np.isfinite(samples))
    if len(bad):
        problem = f"{len(bad)} of {len(samples)} samples are NaN or infinite, the first at sample {bad[0]}"
        raise AudioError("nan_samples", path, problem, "Export the recording again")
    peak = float(np.abs(samples).max())
    if peak > _MAX_PEAK:
        problem = f"samples reach {peak:g}; floating-point recordings must lie in [-1, 1]"
        raise AudioError("samples_out_of_range", path, problem, "Divide by full scale (32768 for 16-bit samples)")


# --- Ways to change a recording before it is encoded; each changed recording has codes and features of its own.


@dataclass(frozen=True)
class Perturbation:
    """One way to change a recording: played faster by a factor, and louder by some dB."""

    speed: float = 1.0
    gain_db: float = 0.0

    @property
    def _rate(self) -> int:
        """Rate in Hz that the samples are taken to have, so that they last as long as they shall."""
        # As functional.speed, which cuts 1.015 * 16000 to 16239 Hz and then needs a gigabyte of filters.
        return round(self.speed * SAMPLE_RATE)

    def key(self, digest: str) -> str:
        """Key of the changed recording in the feature store."""
        return digest if self == UNCHANGED else f"{digest}@{self.speed:g}x{self.gain_db:+g}dB"

    def num_samples(self, num_samples: int) -> int:
        """Length of the changed waveform."""
        return num_samples_16k(num_samples, self._rate)

    def apply(self, waveform: Tensor) -> Tensor:
        """The changed waveform, clipped to [-1, 1]."""
        from torchaudio import functional

        if self.speed != 1.0:
            waveform = functional.resample(waveform, self._rate, SAMPLE_RATE)
        if self.gain_db:
            waveform = functional.gain(waveform, self.gain_db).clamp(-1.0, 1.0)
        return waveform


UNCHANGED = Perturbation()
