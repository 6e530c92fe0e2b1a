"""Who uses what: a sweep's word holds for as long as a process of it lives, and stays known afterwards."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.base import find_adapter
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import share_with_group
from kimi_audio_ft.store.prune import Rules, plan, remove
from kimi_audio_ft.store.usage import Name, forget, gate, is_alive, is_locked, note, records, using
from tests.unit.store.small_products import entries

ONE, TWO = ("adapter", "a1"), ("transcript", "t2")

USES_UNTIL_KILLED = """
import sys
from pathlib import Path
from kimi_audio_ft.store.usage import note, using

with using(Path(sys.argv[1])):
    note([("adapter", "a1")])
    print("using", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def using_products(folder: Path, names: Iterable[Name]) -> Iterator[None]:
    """This process runs the sweep in this folder, which uses these products."""
    with using(folder):
        note(names)
        yield


def used_products(folder: Path, names: Iterable[Name] = ()) -> None:
    """A sweep ran in this folder and used these products."""
    with using_products(folder, names):
        pass


@contextmanager
def running_sweep(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a sweep in this folder and uses the adapter a1."""
    command = [sys.executable, "-c", USES_UNTIL_KILLED, str(folder)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "using\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_use_that_cannot_be_recorded_is_warned_of(
    private_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private_store.parent.mkdir(exist_ok=True)
    private_store.write_text("no folder")
    with using(tmp_path / "sweep"):
        note([ONE])
    assert len(caplog.messages) == 1 and "is not recorded, so `store prune` may remove what it uses" in caplog.text


def test_whoever_shares_a_store_can_take_its_locks(private_store: Path, tmp_path: Path) -> None:
    private_store.mkdir(parents=True)
    private_store.chmod(0o2775)
    before = os.umask(0o022)
    try:
        share_with_group()
        with using(tmp_path / "sweep"), store.lock("adapter", "a1"):
            note([ONE])
            names = [path for path in private_store.rglob(".*") if path.suffix in (".lock", ".running")]
            assert len(names) == 3 and all(path.stat().st_mode & 0o066 == 0o066 for path in names)
            written = [path for path in private_store.rglob("*") if path not in names]
            assert written and all(path.stat().st_mode & 0o020 for path in written)
        private_store.chmod(0o755)
        os.umask(0o022)
        share_with_group()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_users_of_a_store_without_flock_read_what_is_there_and_are_else_refused(
    private_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """Nothing is removed, and no soft lock is left that nobody would break."""
    for name in ("a1", "a2"):
        store.find_or_make("adapter", name, lambda folder: {})
    store.work_folder("adapter", "a3").mkdir()
    before = entries(private_store)

    def missing(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", missing)
    refused = rf"its file system has no locks \(flock: {os.strerror(number)}\).*KIMI_AUDIO_FT_STORE"
    with using(tmp_path / "sweep"):
        assert f"its use of the store is not recorded, so `store prune` may remove what it uses: {private_store}" in (
            caplog.text
        )
        assert store.find_or_make("adapter", "a1", lambda folder: {})[1], "what is there can be used"
        with pytest.raises(UserError, match=refused):
            store.find_or_make("adapter", "a3", lambda folder: {})
        for prune in (plan, remove):
            with pytest.raises(UserError, match=refused):
                prune(Rules(older_than=0.0, leftovers=True))
    assert entries(private_store) == [*before, "uses"]


def test_an_adapter_that_a_command_looks_up_is_used_by_it(tmp_path: Path) -> None:
    store.find_or_make("adapter", "a1", lambda folder: {})
    with using(tmp_path / "evaluation"):
        assert find_adapter("a1") == ("a1", store.product_path("adapter", "a1"))
        (record,) = records()
        assert list(record.products) == [ONE] and record.is_running()


def test_a_use_is_known_while_it_lasts_and_afterwards(private_store: Path, tmp_path: Path) -> None:
    assert records() == []
    with using_products(tmp_path / "sweep", [ONE]):
        [record] = records()
        assert record.sweep == tmp_path / "sweep" and set(record.products) == {ONE} and record.is_running()
        note([TWO, ONE])
        assert set(records()[0].products) == {ONE, TWO}
    [record] = records()
    assert set(record.products) == {ONE, TWO} and not record.is_running()
    used_products(tmp_path / "sweep", [("adapter", "a3")])
    assert set(records()[0].products) == {ONE, TWO, ("adapter", "a3")}, "nothing is forgotten by a second run"
    forget(record)
    assert records() == []


def test_two_processes_of_one_sweep(tmp_path: Path) -> None:
    """It runs until the last of them has ended, one by kill -9."""
    with running_sweep(tmp_path / "sweep") as other:
        with using_products(tmp_path / "sweep", [TWO]):
            [record] = records()
            assert set(record.products) == {ONE, TWO}
        assert record.is_running()
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert not record.is_running()


def test_what_is_noted_inside_a_use(tmp_path: Path) -> None:
    """A sweep's launcher and its trials, in one process, speak of one use."""
    note([ONE])
    with using(tmp_path / "sweep"):
        note(name for name in [ONE])
        with using(tmp_path / "sweep"):
            pass
        [record] = records()
        assert set(record.products) == {ONE} and record.is_running()
    assert not record.is_running()
    note([TWO])
    assert set(records()[0].products) == {ONE}


def test_a_damaged_record_is_begun_anew(private_store: Path, tmp_path: Path) -> None:
    used_products(tmp_path, [ONE])
    [record] = records()
    record.file.write_text("{")
    assert records() == []
    used_products(tmp_path, [TWO])
    assert set(records()[0].products) == {TWO}


def test_a_store_that_cannot_be_written_keeps_no_sweep_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "file"))
    with using_products(tmp_path, [ONE]):
        note([TWO])


def test_locked_products() -> None:
    assert not is_locked(*ONE)
    with store.lock(*ONE):
        assert is_locked(*ONE)
    with store.lock("features", "f1.3"):
        assert is_locked("features", "f1")
    assert not is_locked(*ONE) and not is_locked("features", "f1")


def test_whether_a_sweep_is_alive(private_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = tmp_path / "sweep"
    assert is_alive(sweep) is None and not private_store.exists(), "asking leaves no trace"
    with running_sweep(sweep) as other:
        assert is_alive(sweep) is True
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert is_alive(sweep) is False
    with gate():
        assert is_alive(sweep) is None, "nobody waits for the answer"
    monkeypatch.setattr(socket, "gethostname", lambda: "another-machine")
    assert is_alive(sweep) is None, "its locks may not show here"
    monkeypatch.undo()
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(private_store))
    [record] = records()
    forget(record)
    assert is_alive(sweep) is None


def test_a_lock_that_may_not_be_opened_says_nothing(private_store: Path, tmp_path: Path) -> None:
    used_products(tmp_path, [ONE])
    assert is_alive(tmp_path) is False
    (held,) = (private_store / "uses").glob(".*.running")
    held.unlink()
    assert is_alive(tmp_path) is None
