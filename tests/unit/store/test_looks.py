"""Looks at a test set are counted by what was shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.store.looks import look


def test_only_another_result_of_the_same_set_is_another_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path))
    shown = [("set", ["t1"]), ("set", ["t1"]), ("set", ["t2", "t3"]), ("other", ["t1"]), ("set", ["t1"])]
    assert [look(digest, names, tmp_path / "sweep") for digest, names in shown] == [1, 1, 2, 1, 2]


def test_a_store_that_cannot_be_written_shows_the_number_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    store.write_text("a file, no folder", encoding="utf-8")
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(store))
    assert look("set", ["t1"], tmp_path) == 1
    assert "this look at the test set is not counted" in caplog.text


def test_a_damaged_count_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path))
    (tmp_path / "looks").mkdir()
    (tmp_path / "looks" / "set.json").write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match=r"set\.json.*is not JSON.*Remove it"):
        look("set", ["t1"], tmp_path)
