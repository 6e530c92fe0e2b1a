"""Installed distributions as a test wants them."""

from __future__ import annotations

import importlib.metadata

import pytest


def hide_distribution(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    """Let a distribution that is installed look as if it were not."""
    real = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == hidden:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
