"""The folder that a command writes: errors of its disk, what is put back, and one writer at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import Timeout

from kimi_audio_ft import store
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.merging.folder import drafted
from kimi_audio_ft.store.signature import digest_of


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that holds an earlier result."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.txt").write_text("")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_errors_of_the_folder_itself_are_told_of_it(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out=.*cannot be written \(No such file"), drafted(out, bool) as draft:
        assert draft is not None
        (draft / "missing" / "new.txt").write_text("")
    with pytest.raises(FileNotFoundError), drafted(out, bool):
        (tmp_path / "elsewhere" / "read.txt").read_text()
    with pytest.raises(BrokenPipeError), drafted(out, bool):
        raise BrokenPipeError
    assert names(out) == ["old.txt"] and not list(tmp_path.glob(".out.*"))


def test_what_was_there_is_put_back(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out=.*cannot be written"), drafted(out, bool) as draft:
        assert draft is not None
        shutil.rmtree(draft)  # so that nothing can take the place of what was moved away
    assert names(out) == ["old.txt"] and not list(tmp_path.glob(".out.*"))

    out.rename(tmp_path / ".out.old")  # killed between the two moves
    with drafted(out, lambda: names(out) == ["old.txt"]) as draft:
        assert draft is None, "it is there, and nothing is to be done"
    with drafted(out, bool) as draft:
        assert draft is not None
        (draft / "new.txt").write_text("")
    assert names(out) == ["new.txt"] and not list(tmp_path.glob(".out.*"))


def test_one_writer_at_a_time(out: Path) -> None:
    lock = ("merge", digest_of(str(out)))
    with drafted(out, bool), pytest.raises(Timeout), store.lock(*lock, timeout=0):
        pass
    with store.lock(*lock, timeout=0):
        pass
