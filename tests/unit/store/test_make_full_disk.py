"""A full disk, met for real: words for the user, and nothing half-written in the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import raise_if_full, read_jsonl, write_json, write_jsonl
from tests.unit.store.small_products import entries, make_two_files

KIND, NAME = "adapter", "0123456789abcdef"


def full_disk() -> OSError:
    """What the system says when a real device is full."""
    try:
        with Path("/dev/full").open("w") as device:
            device.write("x")
    except OSError as error:
        return error
    raise AssertionError("/dev/full took a byte")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("wrapped", [False, True])
def test_full_disk_is_told_in_words(private_store: Path, wrapped: bool) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        make_two_files(folder)
        if wrapped:
            raise RuntimeError("a library's own error") from full_disk()
        raise full_disk()

    with pytest.raises(UserError, match=rf"{KIND}/{NAME}: the disk is full; nothing half-written.*KIMI_AUDIO_FT_STORE"):
        store.find_or_make(KIND, NAME, fail)
    assert entries(private_store) == [KIND]


def test_other_errors_are_not_called_a_full_disk() -> None:
    raise_if_full(PermissionError(13, "Permission denied"), Path("x"))
    raise_if_full(RuntimeError("no"), Path("x"))


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    """A store on a file system of 64 KiB."""
    return disk_of(64)


def test_product_larger_than_the_disk(small_disk: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "small").write_bytes(bytes(8_000))
        (folder / "large").write_bytes(bytes(100_000))
        return {}

    with pytest.raises(UserError, match="the disk is full"):
        store.find_or_make(KIND, NAME, make)
    assert entries(small_disk) == [KIND]
    store.find_or_make(KIND, NAME, make_two_files)


def test_safetensors_on_a_full_disk(small_disk: Path) -> None:
    """safetensors has an exception of its own, which names the system's error in its text only."""
    import torch
    from safetensors.torch import save_file

    def make(folder: Path) -> dict[str, Any]:
        save_file({"x": torch.zeros(50_000)}, folder / "adapter_model.safetensors")
        return {}

    with pytest.raises(UserError, match="the disk is full"):
        store.find_or_make(KIND, NAME, make)
    assert entries(small_disk) == [KIND]


def test_files_on_a_full_disk_stay_as_they_were(small_disk: Path) -> None:
    path = small_disk / "rows.jsonl"
    write_jsonl(path, [{"n": 1}])
    with pytest.raises(UserError, match=r"rows\.jsonl: the disk is full"):
        write_jsonl(path, [{"n": "x" * 1000}] * 200)
    with pytest.raises(UserError, match=r"big\.json: the disk is full"):
        write_json(small_disk / "big.json", "x" * 100_000)
    assert read_jsonl(path) == [{"n": 1}]
    assert [entry.name for entry in small_disk.iterdir()] == ["rows.jsonl"]
