"""The server's address: what is taken is told as an option."""

from __future__ import annotations

import pytest

from kimi_audio_ft.config.checks import require_extra
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.serve.listening import address_of, bound


def test_a_taken_port() -> None:
    with bound("127.0.0.1", 0) as first:
        first.listen()
        host, port = first.getsockname()
        assert address_of(first) == f"{host}:{port}"
        with pytest.raises(ConfigError, match=f"port={port}: cannot be listened on .*Use another port, or port=0"):
            bound("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_an_address_of_another_machine(host: str) -> None:
    with pytest.raises(ConfigError, match=f"host='{host}': is no address of this machine"):
        bound(host, 0)


def test_a_missing_package_is_no_fault_of_an_option() -> None:
    said = r'^serve: needs the package no-such-package, .*pip install -e "\.\[serve\]"'
    with pytest.raises(UserError, match=said):
        require_extra("serve", ["numpy", "no-such-package"], "serve")
