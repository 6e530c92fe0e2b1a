"""Audio containers: whether a file is whole, and how long it is; ``ContainerError`` is the error of one that is not."""

from __future__ import annotations

CUT = "the file is cut"
CONVERT = "Convert it with `ffmpeg -i IN -ac 1 -ar 16000 OUT.flac`"


class ContainerError(Exception):
    """A container that is damaged, or does not say where its recording ends; the message is the problem."""

    def __init__(self, problem: str, remedy: str = "Copy or export it again") -> None:
        super().__init__(problem)
        self.remedy = remedy
