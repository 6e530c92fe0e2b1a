"""Recordings that libsndfile does not know, as the wav that the ``ffmpeg`` command makes of them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer

from kimi_audio_ft.manifest.containers import CONVERT, ContainerError
from kimi_audio_ft.text import first_line

READ_FORMATS = (
    "Formats such as wav, flac, mp3, ogg and aiff are read as they are, and m4a, aac, webm and others where the ffmpeg "
    f"command is installed. {CONVERT}"
)
# Not mp3, which it would read from the middle of a frame on; no playlists.
_DEMUXERS = (
    "mov,matroska,asf,aac,ac3,eac3,amr,ape,avi,dsf,dts,flv,mpc,mpc8,mpeg,mpegts,ogg,oma,rm,tak,tta,w64,wav,wv,xwma"
)
# Where the length is limited, so many bytes of wav for a second of it: two channels at 48 kHz. A small file can hold
# hours of silence in many channels.
_MOST_BYTES_PER_SECOND = 48_000 * 2 * 4
# Seconds that ffmpeg may take where the length is limited: these, and so many for each second of audio. It needs about
# a hundredth of a second.
_LEAST_TIME, _TIME_PER_SECOND = 30.0, 0.1


def wav_by_ffmpeg(path: str | Path, longest: float | None = None) -> bytes:
    """The first audio stream of a file as a wav of 32-bit floats.

    Args:
        longest: seconds; no more than these and one more are decoded, so that a longer recording can be told.

    Raises:
        ContainerError: there is no ffmpeg, or it cannot decode the file, or, with ``longest``, not in time or memory.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise ContainerError("not a readable recording (of an unknown format)", READ_FORMATS)
    source = ["-protocol_whitelist", "file", "-format_whitelist", _DEMUXERS, "-i", f"file:{Path(path).absolute()}"]
    limit = [] if longest is None else ["-t", f"{longest + 1:g}"]
    wanted = ["-map", "0:a:0", *limit, "-c:a", "pcm_f32le", "-f", "wav", "-"]
    command = [program, "-nostdin", "-v", "error", *source, *wanted]
    if longest is None:
        done = subprocess.run(command, capture_output=True, check=False)
        found, said, code = done.stdout, done.stderr, done.returncode
    else:
        found, said, code = _limited(command, longest)
    message = said.decode(errors="replace")
    if code or message.strip():
        problem = f"not a readable recording (ffmpeg: {first_line(message, 'no message')})"
        raise ContainerError(problem, READ_FORMATS)
    return found


def _limited(command: Sequence[str], longest: float) -> tuple[bytes, bytes, int]:
    """Output, messages and exit status of a command that is ended when it takes too long, or writes too much."""
    most = round(_MOST_BYTES_PER_SECOND * (longest + 2))  # with the header
    seconds = _LEAST_TIME + _TIME_PER_SECOND * longest
    started = time.monotonic()
    with TemporaryFile() as messages, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages) as process:
        watch = Timer(seconds, process.kill)
        watch.start()
        try:
            assert process.stdout is not None
            found = process.stdout.read(most + 1)
            if len(found) > most:
                raise ContainerError("has too many channels, or too high a sample rate, for its length", CONVERT)
            code = process.wait()
        finally:
            watch.cancel()
            process.kill()
        if code and time.monotonic() - started >= seconds:
            raise ContainerError(f"could not be decoded within {seconds:g} s", CONVERT)
        messages.seek(0)
        return found, messages.read(), code
