"""The address of the server, taken before the model is loaded, which can take minutes."""

from __future__ import annotations

import errno
import socket

from kimi_audio_ft.errors import ConfigError

_REMEDIES = {
    errno.EADDRINUSE: "Use another port, or port=0 for a free one",
    errno.EACCES: "Use a port above 1023",
}


def bound(host: str, port: int) -> socket.socket:
    """A socket with this address, 0 being a free port, that does not listen yet.

    ConfigError: the machine has no such address, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # gaierror, too; and a name such as a..b
        raise _no_host(host, error) from None
    family, kind, protocol, _, address = found[0]
    try:
        made = socket.socket(family, kind, protocol)
    except OSError as error:  # without IPv6
        raise _no_host(host, error) from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        if error.errno in _REMEDIES:
            rule = f"cannot be listened on ({error.strerror})"
            raise ConfigError("port", port, rule, _REMEDIES[error.errno]) from None
        raise _no_host(host, error) from None
    return made


def address_of(bound_socket: socket.socket) -> str:
    """Host and port as in a URL."""
    host, port = bound_socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _no_host(host: str, error: OSError | UnicodeError) -> ConfigError:
    cause = error.strerror if isinstance(error, OSError) else "not a name"
    rule = f"is no address of this machine ({cause})"
    return ConfigError("host", host, rule, "Use 127.0.0.1 for this machine only, or 0.0.0.0 for all of its addresses")
