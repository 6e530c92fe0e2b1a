"""Samples of which a test holds one: whoever wants it waits until the test lets it go, also in another process."""

from __future__ import annotations

import fcntl
from pathlib import Path

from kimi_audio_ft.data.dataset import ConversationDataset, Draw, Sample


class HeldSamples(ConversationDataset):
    """held: index of that sample. lock: a file that the test has locked as long as it holds it."""

    held: int
    lock: Path

    def __getitem__(self, item: int | Draw) -> Sample:
        if item == self.held:
            with self.lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
        return super().__getitem__(item)
