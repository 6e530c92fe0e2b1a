"""Names and errors as W&B's server takes them."""

from __future__ import annotations

import pytest

from kimi_audio_ft.runtime.wandb_server import described, resolve_mode, short_name


def test_long_names_keep_their_end() -> None:
    """W&B's server takes 128 characters, and siblings differ at the end."""
    assert short_name("outputs/sweep") == "outputs/sweep"
    assert short_name("x" * 128) == "x" * 128
    long = short_name("/scratch/" + "x" * 200 + "/lr=0.1")
    assert len(long) == 128 and long.startswith("…x") and long.endswith("/lr=0.1")


def test_an_error_is_told_on_one_line_and_without_a_key() -> None:
    error = ValueError(f"key {'a1' * 20} is refused\nand more")
    assert described(error) == "ValueError: key *** is refused"
    assert described(ValueError()) == "ValueError: "


@pytest.mark.parametrize(
    ("variable", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
def test_the_environment_wins_over_the_option(monkeypatch: pytest.MonkeyPatch, variable: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    assert resolve_mode("online") == mode
