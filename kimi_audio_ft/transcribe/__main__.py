"""``python -m kimi_audio_ft.transcribe audio=FOLDER out=my/texts``."""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from kimi_audio_ft.cli import command
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.store.usage import using
from kimi_audio_ft.text import duration, printable
from kimi_audio_ft.transcribe.recommended import with_recommended

if TYPE_CHECKING:
    from kimi_audio_ft.config.transcribe import TranscribeConfig
    from kimi_audio_ft.transcribe.run import Transcribed

# Recordings without text that are named; all have a line in transcripts.jsonl.
_SHOWN = 5
# To correct: transcribe writes the table itself again.
_COPY = "corrected.csv"


@command("transcribe")
def main(config: TranscribeConfig) -> None:
    """Transcribe what Hydra composed; prints how much, how fast, and what could not be read."""
    from kimi_audio_ft.transcribe.run import transcribe

    quiet_libraries()
    logging.getLogger("kimi_audio_ft.features").setLevel(logging.WARNING)
    with using(expanded(config.out)):
        done = transcribe(with_recommended(config, HydraConfig.get().overrides.task))
    _report(config, done)


def _report(config: TranscribeConfig, done: Transcribed) -> None:
    from kimi_audio_ft.transcribe.outputs import CSV, SUREST
    from kimi_audio_ft.transcribe.progress import speed

    hours = f"{_recordings(done.recordings)}, {done.seconds / 3600:.3g} hours of audio"
    if done.decoded:
        rate = speed(done.decoded / max(done.took, 1e-9))
        print(f"{hours}; {done.decoded / 3600:.3g} hours transcribed in {duration(done.took)}: {rate}")
    elif done.silent + len(done.failed) == done.recordings:
        print(f"{hours}; there is nothing to transcribe in them")
    else:
        print(f"{hours}; the store had all texts")
    if done.silent:
        print(f"without speech: {_recordings(done.silent)}")
    for one in done.failed[:_SHOWN]:
        print(f"no text: {one.problem}")
    if len(done.failed) > _SHOWN:
        print(f"no text: {len(done.failed) - _SHOWN} more")
    print(f"texts: {printable(str(done.file))}")
    if done.surest is not None:
        part = f"{done.surest / 3600:.3g} of {done.texts / 3600:.3g} hours that have a whole text"
        print(f"the surest: {printable(str(done.file.with_name(SUREST)))}, {part}")
    if "csv" in config.format:
        table, copy = (printable(shlex.quote(str(done.file.with_name(name)))) for name in (CSV, _COPY))
        channel = " channel_column=channel" if config.channel is not None else ""
        print("the pieces that are least sure: sort a copy by avg_logprob and correct it")
        print(f"cp {table} {copy}")
        print(f"python -m kimi_audio_ft.prepare csv={copy} out=FOLDER start_column=start end_column=end{channel}")


def _recordings(number: int) -> str:
    return "1 recording" if number == 1 else f"{number:,} recordings"


if __name__ == "__main__":
    main()
