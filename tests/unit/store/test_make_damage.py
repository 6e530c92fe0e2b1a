"""Hashes: a damaged product is not used, is set aside with a word about it, and is made again."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.base import find_adapter
from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.store.make import HASHES
from tests.unit.store.small_products import told_to_go_on

KIND, NAME = "adapter", "a123456789abcdef"
LARGE = 1 << 20


def make(folder: Path) -> dict[str, Any]:
    (folder / "weights").write_bytes(b"x" * 1000)
    (folder / "large").write_bytes(bytes(LARGE))
    (folder / "deep").mkdir()
    (folder / "deep" / "b.txt").write_text("字", encoding="utf-8")
    return {"steps": 3}


def flip_a_bit(file: Path) -> None:
    """One bit is another one; the size stays. Large files are not read while their time of change is known."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    before = file.stat()
    file.write_bytes(bytes(content))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + (1 if len(content) >= LARGE else 0)))


def renew(product: Path) -> Path:
    """Give the product's record a new time of change, so that this process compares its files again."""
    meta = product / "product.json"
    os.utime(meta, ns=(meta.stat().st_atime_ns, meta.stat().st_mtime_ns + 1))
    return product


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "small": (lambda p: flip_a_bit(p / "weights"), r"the sha256 of weights is not the one in product\.json"),
    "large": (lambda p: flip_a_bit(p / "large"), "the sha256 of large"),
    "short": (lambda p: cut_short(p / "deep" / "b.txt"), "the sha256 of deep/b.txt"),
    "missing": (lambda p: (p / "weights").unlink(), "weights is missing"),
    "empty meta": (lambda p: (p / "product.json").write_bytes(b""), r"product\.json cannot be read"),
    "odd meta": (lambda p: (p / "product.json").write_text("[]"), r"product\.json cannot be read"),
}


@pytest.fixture
def product(private_store: Path) -> Path:
    """A product that another process has made."""
    path, _ = store.find_or_make(KIND, NAME, make)
    return renew(path)


def test_hashes_of_every_file_are_kept(product: Path) -> None:
    hashes = store.read_meta(product)[HASHES]
    assert sorted(hashes) == ["deep/b.txt", "large", "weights"] and {len(value) for value in hashes.values()} == {64}
    assert store.find(KIND, NAME) == product


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_set_aside_and_made_again(product: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert store.find(KIND, NAME) == product  # which remembers the large file's hash
    damage, words = DAMAGES[name]
    damage(renew(product))
    with caplog.at_level(logging.WARNING):
        assert store.find(KIND, NAME) is None and store.find(KIND, NAME) is None
    assert len(caplog.messages) == 1, "said once"
    assert caplog.text.count("is corrupted") == 1 and str(product) in caplog.text
    caplog.clear()
    path, reused = store.find_or_make(KIND, NAME, make)
    assert (path, reused) == (product, False) and store.damage(path, remembered=False) is None
    [aside] = product.parent.glob(f".corrupt-{NAME}.*")
    with pytest.raises(AssertionError, match=words):
        assert store.damage(aside) is None, store.damage(aside)
    assert f"kept as {aside}" in caplog.text
    assert store.find_or_make(KIND, NAME, make) == (product, True)
    assert [row["signature"] for row in listing()] == [NAME]


def test_a_product_of_a_version_without_hashes_is_used(product: Path) -> None:
    meta = store.read_meta(product)
    del meta[HASHES]
    (product / "product.json").write_text(json.dumps(meta))
    flip_a_bit(product / "weights")
    assert store.find(KIND, NAME) == product


def test_what_this_process_made_is_not_read_again(private_store: Path) -> None:
    path, _ = store.find_or_make(KIND, NAME, make)
    flip_a_bit(path / "weights")
    assert store.find(KIND, NAME) == path
    renew(path)
    assert store.find(KIND, NAME) is None


def test_a_damaged_adapter_is_no_adapter_to_evaluate_or_merge(product: Path) -> None:
    assert find_adapter(NAME) == (NAME, product) == find_adapter(str(product))
    flip_a_bit(renew(product) / "weights")
    for given in (NAME, str(product)):
        with pytest.raises(DataError, match=rf"{NAME}: is corrupted \(the sha256 of weights .*Train it again"):
            find_adapter(given)


MAKES_FROM_DAMAGED = """
import sys
from pathlib import Path
from kimi_audio_ft import store

sys.stderr = sys.stdout

def make(folder):
    print("made", flush=True)
    (folder / "weights").write_bytes(b"x" * 1000)
    return {}

print("asking", flush=True)
sys.stdin.readline()
path, _ = store.find_or_make(*sys.argv[1:3], make)
print((path / "weights").stat().st_size)
"""


def test_processes_that_meet_a_damaged_product_make_it_once(product: Path) -> None:
    """Three at once; one sets it aside and makes it, the others use what it made."""
    flip_a_bit(product / "weights")
    outputs = told_to_go_on([[MAKES_FROM_DAMAGED, KIND, NAME]] * 3)
    results = [[line for line in lines if line in ("made", "1000")] for lines in outputs]
    assert sorted(results) == [["1000"], ["1000"], ["made", "1000"]], outputs
    assert len(list(product.parent.glob(".corrupt-*"))) == 1
    said = "\n".join(line for lines in outputs for line in lines)
    assert "the sha256 of weights" in said and "missing" not in said and "cannot be read" not in said


@pytest.fixture
def read_only(disk_of: Callable[[int], Path]) -> Callable[[], Path]:
    """Makes the store, a file system of its own, one that can only be read."""
    place = disk_of(4096)

    def remount() -> Path:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        return place

    return remount


def test_a_store_that_can_only_be_read(read_only: Callable[[], Path], caplog: pytest.LogCaptureFixture) -> None:
    path, _ = store.find_or_make(KIND, NAME, make)
    damaged, _ = store.find_or_make(KIND, "a2", make)
    flip_a_bit(renew(damaged) / "weights")
    store.work_folder(KIND, NAME).mkdir()
    read_only()
    assert store.find_or_make(KIND, NAME, make) == (path, True)
    with pytest.raises(UserError, match=r"KIMI_AUDIO_FT_STORE: .* cannot be written .*adapter a1 is not there"):
        store.find_or_make(KIND, "a1", make)
    with pytest.raises(UserError, match="cannot be written"):
        store.find_or_make(KIND, "a2", make)
    assert "a2 is corrupted: the sha256 of weights" in caplog.text
