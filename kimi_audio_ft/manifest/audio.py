"""Audio decoding: any file that libsndfile opens becomes 16 kHz mono, optionally with speed and volume perturbation.

Decoding is separate from resampling, so that checking recordings needs neither torch nor resampling.
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

from kimi_audio_ft.errors import DataError

if TYPE_CHECKING:
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
_UNKNOWN_LENGTH = 2**63 - 1  # SF_COUNT_MAX, reported by libsndfile for streamed FLAC
_FORMATS = "Readable formats are wav, flac, mp3 and ogg; convert others with `ffmpeg -i IN -ar 16000 OUT.wav`"


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


def audio_info(path: str | Path) -> AudioInfo:
    """Length and format of a recording from its header; AudioError if it is missing, unreadable or empty."""
    with _open(path) as file:
        frames, rate, channels = file.frames, file.samplerate, file.channels
    if frames == 0:
        raise _no_samples(path)
    return AudioInfo(num_samples_16k(frames, rate), frames / rate, rate, channels)


def lengths_16k(paths: Sequence[str | Path]) -> np.ndarray:
    """``num_samples_16k`` of many recordings, int64 ``[len(paths)]``, as ``audio_info`` in 8 threads."""
    batches = (paths[start : start + _HEADERS_AT_ONCE] for start in range(0, len(paths), _HEADERS_AT_ONCE))
    with ThreadPoolExecutor(8) as pool:
        infos = (info for batch in batches for info in pool.map(audio_info, batch))
        return np.fromiter((info.num_samples_16k for info in infos), np.int64)


def num_samples_16k(num_samples: int, sample_rate: int) -> int:
    """Number of samples after resampling to 16 kHz: ``ceil(16000 * num_samples / sample_rate)`` in exact integers."""
    return -(-num_samples * SAMPLE_RATE // sample_rate)


def decode_mono(path: str | Path) -> tuple[np.ndarray, int]:
    """Decodes at the file's own rate: ``([num_samples] float32, sample_rate in Hz)``; channels are averaged.

    Raises:
        AudioError: missing, unreadable, truncated or empty file; NaN, infinite or far out-of-range samples.
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
    """``[num_samples]`` float32 at 16 kHz in [-1, 1], clipped above full scale; errors as of ``decode_mono``."""
    import torch
    from torchaudio.functional import resample

    samples, rate = decode_mono(path)
    waveform = torch.from_numpy(samples)
    if rate != SAMPLE_RATE:
        # torchaudio computes its output length in float32, which is a sample short from about 4 s on. Pad a second of
        # silence (as its filter assumes anyway), then cut to the exact length.
        padded = torch.nn.functional.pad(waveform, (0, rate))
        waveform = resample(padded, rate, SAMPLE_RATE)[: num_samples_16k(len(samples), rate)]
    return waveform.clamp(-1.0, 1.0)


def content_digest(samples: np.ndarray, sample_rate: int) -> str:
    """SHA-256 of what ``decode_mono`` returns, independent of the container (wav or flac) and of tags."""
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
    """Decoded blocks ``[num_samples, channels]`` float32; memory is not allocated by the length in the header."""
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


@dataclass(frozen=True)
class Perturbation:
    """Speed (factor) and volume (dB) perturbation, applied before encoding."""

    speed: float = 1.0
    gain_db: float = 0.0

    @property
    def _rate(self) -> int:
        """Nominal input rate in Hz that gives the intended duration when resampled to 16 kHz."""
        # As functional.speed, but rounded: it truncates 1.015 * 16000 to 16239 Hz and then needs a gigabyte of filters.
        return round(self.speed * SAMPLE_RATE)

    def key(self, digest: str) -> str:
        return digest if self == UNCHANGED else f"{digest}@{self.speed:g}x{self.gain_db:+g}dB"

    def num_samples(self, num_samples: int) -> int:
        return num_samples_16k(num_samples, self._rate)

    def apply(self, waveform: torch.Tensor) -> torch.Tensor:
        """The perturbed waveform, clipped to [-1, 1]."""
        from torchaudio import functional

        if self.speed != 1.0:
            waveform = functional.resample(waveform, self._rate, SAMPLE_RATE)
        if self.gain_db:
            waveform = functional.gain(waveform, self.gain_db).clamp(-1.0, 1.0)
        return waveform


UNCHANGED = Perturbation()
