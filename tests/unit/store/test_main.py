"""``python -m kimi_audio_ft.store``: what a person types and sees."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.files import write_json
from kimi_audio_ft.store.__main__ import age_in_seconds, main, size_in_bytes
from kimi_audio_ft.store.digests import file_digests, sha256_of
from kimi_audio_ft.store.inventory import listing
from tests.unit.store.small_products import make_two_files, write_features

Capture = pytest.CaptureFixture[str]


def run(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


LISTS_WITHOUT_TORCH = """
import runpy, sys
sys.argv = ["store", *sys.argv[1:]]
runpy.run_module("kimi_audio_ft.store", run_name="__main__")
heavy = {"torch", "transformers", "peft", "numpy", "hydra"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


@pytest.mark.parametrize("command", [["ls", "--json"], ["verify"], ["prune", "--older-than", "1d"]])
def test_commands_are_light(private_store: Path, command: list[str]) -> None:
    store.find_or_make("adapter", "aa", lambda folder: {"note": "字"})
    done = subprocess.run([sys.executable, "-c", LISTS_WITHOUT_TORCH, *command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if command[0] == "ls":
        assert json.loads(done.stdout) == listing()


def test_ls_as_a_table(private_store: Path, capsys: Capture) -> None:
    store.find_or_make("adapter", "aa11", make_two_files)
    (store.find_or_make("adapter", "aa12", make_two_files)[0] / "product.json").write_text("")
    assert run("ls") == 0
    table = capsys.readouterr().out
    assert "aa11" in table and "kB" in table and "product.json cannot be read" in table and "steps=3" in table


@pytest.mark.parametrize(
    "facts",
    [
        {"created": "not a date"},
        {"created": 3},
        {"created": "2026-11-24T10:00:00+0000", "inputs": "none"},
        {"created": "2026-11-24T10:00:00+0000", "sha256": ["a"]},
        ["no object"],
    ],
)
def test_a_malformed_product_is_named_and_the_others_listed(private_store: Path, capsys: Capture, facts: Any) -> None:
    store.find_or_make("transcript", "aa11", make_two_files)
    write_json(store.find_or_make("transcript", "aa12", make_two_files)[0] / "product.json", facts)
    write_json(private_store / "uses" / "ab.json", {"sweep": "s", "started": "x", "products": {"transcript/aa11": "y"}})
    assert run("ls") == 0
    table = capsys.readouterr().out
    assert "aa11" in table and "aa12" in table
    assert run("verify") == (1 if facts == ["no object"] or "sha256" in facts else 0)
    assert run("prune", "--older-than", "1d") == 0


def test_nothing_in_a_table_is_obeyed_by_a_terminal(private_store: Path, capsys: Capture) -> None:
    store.find_or_make("transcript", "t1", lambda folder: {"decoding": {"text_top_k": "\x1b]0;title\x07[red]"}})
    assert run("ls") == 0
    table = capsys.readouterr().out
    assert "\x1b" not in table and "\x07" not in table
    assert r"text_top_k=\x1b]0;title\x07[red]" in "".join(table.split("\n"))


def test_verify(private_store: Path, capsys: Capture) -> None:
    for name in ("whole", "bad", "old"):
        store.find_or_make("adapter", name, make_two_files)
    old = store.product_path("adapter", "old")
    write_json(old / "product.json", {"created": "2026-11-24T10:00:00+0000"})
    assert run("verify") == 0
    out = capsys.readouterr().out
    assert "no hashes" in out and "3 products checked, 0 corrupted\n" in out
    store.product_path("adapter", "bad").joinpath("a.bin").write_bytes(b"y" * 1000)
    assert run("verify", "--kind", "transcript") == 0
    assert run("verify") == 1
    out = capsys.readouterr().out
    assert "CORRUPTED: the sha256 of a.bin" in out and "1 corrupted. Set them aside with `verify --repair`" in out
    with store.lock("adapter", "bad"):
        assert run("verify", "--repair") == 1
    assert "left alone: a process is making it now" in capsys.readouterr().out
    assert run("verify", "--repair") == 1
    assert "set aside as .corrupt-bad." in capsys.readouterr().out
    assert run("verify") == 0
    assert "2 products checked" in capsys.readouterr().out


def test_verify_reads_what_a_run_remembers(private_store: Path) -> None:
    """A disk that loses a bit changes nothing about a file but its content."""
    file = store.find_or_make("adapter", "a1", make_large)[0] / "large"
    assert list(file_digests([file])) == [sha256_of(file)]  # remembered from now on
    with closing(sqlite3.connect(private_store / "digests.sqlite")) as remembered, remembered:
        remembered.execute("UPDATE files SET sha256 = 'of other content'")
    assert store.damage(file.parent) is not None and run("verify") == 0


def make_large(folder: Path) -> dict[str, Any]:
    (folder / "large").write_bytes(bytes(2 << 20))
    return {}


GOOD = [(b"k1", 0, 3, 0), (b"k2", 0, 5, 1), (b"k3", 3, 2, 0)]
SIZES = {"0/codes.bin": 20, "0/features.bin": 20, "1/codes.bin": 20, "1/features.bin": 20}


@pytest.mark.parametrize(
    ("sizes", "records", "problem"),
    [
        (SIZES, GOOD, None),
        (SIZES | {"0/codes.bin": 999}, GOOD, None),  # another process is writing behind what the index speaks of
        (SIZES | {"0/features.bin": 19}, GOOD, "0/features.bin has 19 bytes, and index.bin needs 20"),
        ({k: v for k, v in SIZES.items() if k != "1/codes.bin"}, GOOD, "1/codes.bin has 0 bytes, and"),
        (SIZES, [*GOOD[:2], (b"k3", 2, 2, 0)], "index.bin: record 1 of shard 0 does not begin where"),
    ],
)  # fmt: skip
def test_verify_features(sizes: dict[str, int], records: list[Any], problem: str | None, capsys: Capture) -> None:
    write_features("f1", sizes, records)
    assert run("verify") == (problem is not None)
    assert (problem or "ok (index and sizes agree)") in capsys.readouterr().out


def test_prune(private_store: Path, capsys: Capture) -> None:
    for name in ("a1", "a2"):
        store.find_or_make("adapter", name, make_two_files)
    for ask in (["--keep-bytes", "0"], ["--keep-bytes", "0B", "--dry-run"]):
        assert run("prune", *ask) == 0
        out = capsys.readouterr().out
        assert "2 entries of 2.6 kB would be removed. Add --yes to remove them" in out and "a1" in out
    assert len(listing()) == 2
    with store.lock("adapter", "a2"):
        assert run("prune", "--keep-bytes", "0", "--yes") == 0
    out = capsys.readouterr().out
    assert "1 entry of 1.3 kB removed, 1 stay\n" in out and "no: being made now" in out
    assert [row["signature"] for row in listing()] == ["a2"]
    assert run("prune", "--older-than", "30d", "--yes") == 0
    assert capsys.readouterr().out == "0 entries of 0 bytes removed\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], r"error: prune: say what may go: --older-than, .*--dry-run is the default"),
        (["--older-than", "30"], "--older-than: '30' must be a number and one of s, m, h, d, w, as in 30d"),
        (["--keep-bytes", "10 GiB"], "--keep-bytes: '10 GiB' must be a number and one of B, kB, MB, GB, TB"),
        (["--study", "nowhere"], "error: --study nowhere: no such folder, and no sweep in it is known"),
        (["--leftovers", "--yes", "--dry-run"], "not allowed with argument"),
    ],
)
def test_prune_cannot_be_run(arguments: list[str], words: str, capsys: Capture) -> None:
    assert run("prune", *arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(words, error), error


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2592000.0), ("1.5h", 5400.0), ("2w", 1209600.0), ("10m", 600.0), ("5s", 5.0)]
)
def test_ages(text: str, seconds: float) -> None:
    assert age_in_seconds(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("10GB", 10**10), ("1.5 MB", 1500000), ("7kB", 7000), ("12", 12)])
def test_sizes(text: str, size: int) -> None:
    assert size_in_bytes(text) == size
