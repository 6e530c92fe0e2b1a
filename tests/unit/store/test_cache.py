"""Values are computed once for all processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kimi_audio_ft.store.cache import keep, recall, remember

VALUES: dict[str, Any] = {"layouts": {"linears": ["q_proj"]}, "manifests": {"lengths": np.arange(3)}}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_is_computed_once_and_again_when_its_file_is_damaged(private_store: Path, kind: str) -> None:
    calls: list[int] = []

    def make() -> Any:
        calls.append(len(calls))
        return VALUES[kind]

    assert recall(kind, ["v", 1]) is None
    for _ in range(2):
        found = remember(kind, ["v", 1], make)
        np.testing.assert_equal(found, VALUES[kind])
    remember(kind, ["v", 2], make)
    assert calls == [0, 1]
    for file in (private_store / kind).glob("[!.]*"):
        file.write_bytes(file.read_bytes()[:-3])
    np.testing.assert_equal(remember(kind, ["v", 1], make), VALUES[kind])
    assert calls == [0, 1, 2] and recall(kind, ["v", 2]) is None


def test_a_store_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "file"))
    keep("rungs", "a", 1)
    assert remember("rungs", "a", lambda: 2) == 2
