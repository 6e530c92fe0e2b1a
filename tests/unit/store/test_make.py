"""The store: a product is whole or absent, made once, and a crash loses nothing that was kept on purpose."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import read_jsonl, write_json, write_jsonl
from kimi_audio_ft.store.inventory import listing
from tests.unit.store.small_products import entries, make_two_files, told_to_go_on

KIND, NAME = "adapter", "0123456789abcdef"


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options)


def test_made_once_then_found(private_store: Path) -> None:
    calls = []

    def make(folder: Path) -> dict[str, Any]:
        calls.append(folder)
        assert list(folder.iterdir()) == []
        assert store.find(KIND, NAME) is None, "nobody finds a product while it is made"
        return make_two_files(folder)

    assert store.find(KIND, NAME) is None
    path, reused = store.find_or_make(KIND, NAME, make)
    assert (path, reused) == (private_store / KIND / NAME, False)
    assert store.find_or_make(KIND, NAME, make) == (path, True)
    assert store.find(KIND, NAME) == path == store.product_path(KIND, NAME)
    assert len(calls) == 1
    assert entries(path) == ["a.bin", "deep", "deep/b.txt", "product.json"]
    meta = store.read_meta(path)
    assert meta["steps"] == 3 and meta["kind"] == KIND and meta["signature"] == NAME and meta["created"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), UserError("where: what. Do this")])
def test_a_failed_making_leaves_nothing(private_store: Path, error: BaseException) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        make_two_files(folder)
        raise error

    with pytest.raises(type(error)) as raised:
        store.find_or_make(KIND, NAME, fail)
    assert raised.value is error
    assert entries(private_store) == [KIND]
    assert store.find_or_make(KIND, NAME, make_two_files)[1] is False


def test_facts_that_are_no_json_leave_nothing(private_store: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.find_or_make(KIND, NAME, lambda folder: {"path": folder})
    assert entries(private_store) == [KIND]


def test_work_survives_a_failure_and_goes_with_success(private_store: Path) -> None:
    work = store.work_folder(KIND, NAME)

    def fail(folder: Path) -> dict[str, Any]:
        work.mkdir()
        (work / "checkpoint").write_text("3")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.find_or_make(KIND, NAME, fail)
    assert (work / "checkpoint").read_text() == "3"

    def go_on(folder: Path) -> dict[str, Any]:
        return {"from": (work / "checkpoint").read_text()}

    path, _ = store.find_or_make(KIND, NAME, go_on)
    assert store.read_meta(path)["from"] == "3"
    assert not work.exists()


def test_work_left_by_a_maker_killed_at_the_very_end(private_store: Path) -> None:
    store.find_or_make(KIND, NAME, make_two_files)
    store.work_folder(KIND, NAME).mkdir()
    assert store.find_or_make(KIND, NAME, make_two_files)[1] is True
    assert entries(private_store / KIND)[0] == NAME


KILLED_WHILE_MAKING = """
import os, signal, sys
from kimi_audio_ft import store

def make(folder):
    (folder / "half").write_text("half of it")
    work = store.work_folder(sys.argv[1], sys.argv[2])
    work.mkdir()
    (work / "checkpoint").write_text("3")
    os.kill(os.getpid(), signal.SIGKILL)

store.find_or_make(sys.argv[1], sys.argv[2], make)
"""


def test_a_killed_maker_leaves_its_work_and_no_product(private_store: Path) -> None:
    assert run_python(KILLED_WHILE_MAKING, KIND, NAME).returncode == -signal.SIGKILL
    assert store.find(KIND, NAME) is None and listing() == []
    assert f".{NAME}.draft/half" in entries(private_store / KIND), "it really was killed half-way"

    def make(folder: Path) -> dict[str, Any]:
        assert list(folder.iterdir()) == [], "what the killed process wrote is gone"
        assert (store.work_folder(KIND, NAME) / "checkpoint").read_text() == "3"
        return {}

    store.find_or_make(KIND, NAME, make)
    assert entries(private_store) == [KIND, f"{KIND}/{NAME}", f"{KIND}/{NAME}/product.json"]


MAKE_WHEN_TOLD = """
import sys
from kimi_audio_ft import store

def make(folder):
    print("making", flush=True)
    sys.stdin.readline()
    return {}

print("asking", flush=True)
print(store.find_or_make(sys.argv[1], sys.argv[2], make)[1], flush=True)
"""


def test_processes_make_a_product_once(private_store: Path) -> None:
    """Three ask for it while it is being made; if the lock did not hold, two would print "making"."""
    outputs = told_to_go_on([[MAKE_WHEN_TOLD, KIND, NAME]] * 3)
    assert sorted(outputs) == [["True"], ["True"], ["making", "False"]]


def test_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"KIMI_AUDIO_FT_STORE: .*file/adapter cannot be written .*Name a writable"):
        store.find_or_make(KIND, NAME, make_two_files)


def test_written_files(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"text": "会议", "none": None})
    assert "会议" in (tmp_path / "new" / "a.json").read_text(encoding="utf-8")
    rows = [{"text": "一\n二"}, {"text": "三\u2028"}]
    write_jsonl(tmp_path / "new" / "b.jsonl", rows)
    assert read_jsonl(tmp_path / "new" / "b.jsonl") == rows
    assert entries(tmp_path / "new") == ["a.json", "b.jsonl"]


def test_a_row_that_is_no_json_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"n": 1}])
    with pytest.raises(TypeError):
        write_jsonl(path, [{"n": 2}, {"n": {3}}])
    assert read_jsonl(path) == [{"n": 1}]
    assert entries(tmp_path) == ["rows.jsonl"]


def test_signature_of_an_unknown_kind() -> None:
    with pytest.raises(AssertionError):
        store.product_path("adaptor", NAME)


def test_a_product_that_is_there_is_not_replaced(private_store: Path) -> None:
    """As when it was made between a look and the lock: whoever uses it keeps it, and nothing is called damaged."""
    store.find_or_make(KIND, NAME, lambda folder: {"by": "one"})
    store.begin(KIND, NAME)
    path = store.complete(KIND, NAME, {"by": "another"})
    assert store.read_meta(path)["by"] == "one"
    assert entries(private_store) == [KIND, f"{KIND}/{NAME}", f"{KIND}/{NAME}/product.json"]
