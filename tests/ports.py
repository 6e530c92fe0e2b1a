"""Ports for servers that tests start as processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from socket import SO_REUSEADDR, SOL_SOCKET, socket


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody is given by chance, on which a server that names it may listen meanwhile.

    The system lets it do so as both allow that, and as this socket never listens.
    """
    with socket() as held:
        held.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
