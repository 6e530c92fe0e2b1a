"""One engine of vLLM for all that is decoded in a block: starting one takes half a minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from kimi_audio_ft.config.train import VLLM_MOST_RANK
from kimi_audio_ft.errors import UserError

if TYPE_CHECKING:  # commands that find all transcripts in the store do without PyTorch
    from kimi_audio_ft.decoding.vllm import Engine


class Kept:
    """An engine for one decoding after the other.

    rank: highest rank of the adapters that are to come. failed: engines that could not be started, with their errors.
    """

    def __init__(self, rank: int) -> None:
        self.rank = min(rank, VLLM_MOST_RANK)  # an adapter of a higher one fails by itself
        self.engine: Engine | None = None
        self.failed: list[tuple[Engine, UserError]] = []
        self._held = ExitStack()

    def start(self, engine: Engine) -> None:
        try:
            self._held.enter_context(engine.process)
        except UserError as error:
            self.failed.append((engine, error))
            raise
        self.engine = engine

    def close(self) -> None:
        self.engine = None
        self._held.close()


_KEPT: ContextVar[Kept | None] = ContextVar("_KEPT", default=None)


def kept() -> Kept | None:
    """That of the block around, if there is one."""
    return _KEPT.get()


@contextmanager
def vllm_kept(rank: int = 0) -> Iterator[None]:
    """Use one engine for all that vLLM decodes inside; within another such block, that one's.

    Args:
        rank: highest rank of the adapters.
    """
    if kept() is not None:
        yield
        return
    own = Kept(rank)
    token = _KEPT.set(own)
    try:
        yield
    finally:
        _KEPT.reset(token)
        own.close()
