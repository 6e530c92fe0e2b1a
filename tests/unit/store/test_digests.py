"""Digests of values, configs and files: what names depend on."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.store.digests import file_digest, file_digests, folder_digest
from kimi_audio_ft.store.signature import digest_of, flatten, signature
from tests.unit.conftest import rewrite


class TestDigests:
    def test_same_for_every_key_order_and_process(self) -> None:
        facts = {"b": [1, 2.5, None, True], "a": {"é": "字"}}
        assert digest_of(facts) == digest_of(dict(reversed(facts.items()))) == "1258c60f0e30a323"
        assert digest_of({"a": 1}) != digest_of({"a": "1"})

    def test_stage_and_inputs_count(self) -> None:
        config = {"lora": {"r": 8}}
        names = {
            signature("adapter", config, {}),
            signature("transcript", config, {}),
            signature("adapter", config, {"base": "x"}),
        }
        assert len(names) == 3 and all(len(name) == 16 for name in names)

    def test_flatten(self) -> None:
        assert flatten({"lora": {"r": 8, "deep": {"x": [1]}}, "seed": 1}) == {
            "lora.r": 8,
            "lora.deep.x": [1],
            "seed": 1,
        }

    def test_other_content_of_the_same_path_size_and_time_is_seen(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(b"one")
        before, folder = file_digest(path), folder_digest(tmp_path)
        rewrite(path, b"two")
        assert file_digest(path) != before and folder_digest(tmp_path) != folder
        rewrite(path, b"one")
        assert file_digest(path) == before == hashlib.sha256(b"one").hexdigest()

    def test_another_file_of_the_same_size_and_time(self, tmp_path: Path) -> None:
        digests = {}
        for version in ("v1", "v2"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "a.bin").write_text(version)
            os.utime(tmp_path / version / "a.bin", ns=(10**18, 10**18))
        (tmp_path / "data").symlink_to("v1")
        digests["v1"] = file_digest(tmp_path / "data" / "a.bin")
        (tmp_path / "data").unlink()
        (tmp_path / "data").symlink_to("v2")
        digests["v2"] = file_digest(tmp_path / "data" / "a.bin")
        (tmp_path / "v1" / "a.bin").replace(tmp_path / "v2" / "a.bin")
        assert digests["v1"] != digests["v2"] and file_digest(tmp_path / "v2" / "a.bin") == digests["v1"]

    def test_remembered_for_other_processes(self, private_store: Path, tmp_path: Path) -> None:
        """A digest is read from the store and not computed again: a planted one shows where it came from."""
        path = tmp_path / "a.bin"
        path.write_bytes(b"one")
        file_digest(path)
        code = (
            "import sqlite3, sys; from pathlib import Path; from kimi_audio_ft.store.digests import file_digest\n"
            "db = sqlite3.connect(sys.argv[1]); db.execute(\"UPDATE files SET sha256 = 'planted'\"); db.commit()\n"
            "print(file_digest(Path(sys.argv[2])))\n"
            "Path(sys.argv[2]).write_bytes(b'longer')\n"
            "print(file_digest(Path(sys.argv[2])))\n"
        )
        command = [sys.executable, "-c", code, str(private_store / "digests.sqlite"), str(path)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert lines == ["planted", hashlib.sha256(b"longer").hexdigest()]

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nothing\.wav: cannot be read \(No such file"):
            file_digest(tmp_path / "nothing.wav")

    @pytest.fixture
    def many(self, tmp_path: Path) -> list[Path]:
        """More files than are looked up at once, in two folders and through links, one of them twice."""
        paths = [tmp_path / f"{number % 2}" / f"{number}.bin" for number in range(1203)]
        for number, path in enumerate(paths):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"%d" % number)
        (tmp_path / "link.bin").symlink_to(paths[3])
        (tmp_path / "folder").symlink_to(tmp_path / "1")
        return [*paths, tmp_path / "link.bin", tmp_path / "folder" / "7.bin", paths[5]]

    def test_many_files_at_once(self, private_store: Path, many: list[Path]) -> None:
        digests = list(file_digests(many))
        assert digests == [hashlib.sha256(path.read_bytes()).hexdigest() for path in many]
        assert list(file_digests(map(str, many))) == digests == [file_digest(path) for path in many]
        with closing(sqlite3.connect(private_store / "digests.sqlite")) as memory, memory:
            assert memory.execute("SELECT count(*) FROM files").fetchone() == (1203,)  # links are no files
            memory.execute("UPDATE files SET sha256 = 'planted' || sha256")
        many[1].write_bytes(b"longer")
        expected = [f"planted{digest}" for digest in digests]
        expected[1] = hashlib.sha256(b"longer").hexdigest()
        assert list(file_digests(many)) == expected and list(file_digests([])) == []

    def test_without_a_memory_files_are_hashed(self, private_store: Path, many: list[Path]) -> None:
        private_store.write_text("no folder")
        assert list(file_digests(many[-3:])) == [hashlib.sha256(path.read_bytes()).hexdigest() for path in many[-3:]]
        private_store.unlink()
        private_store.mkdir()
        (private_store / "digests.sqlite").write_text("no database " * 1000)
        assert list(file_digests(many[:1])) == [hashlib.sha256(b"0").hexdigest()]

    def test_a_bad_file_among_many(self, many: list[Path]) -> None:
        many[800].unlink()
        with pytest.raises(DataError, match=r"800\.bin: cannot be read \(No such file"):
            list(file_digests(many))
        many[800].mkdir()
        with pytest.raises(DataError, match=r"800\.bin: cannot be read \(Is a directory"):
            list(file_digests(many))

    def test_folder(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        before = folder_digest(tmp_path)
        (tmp_path / "notes.txt").write_text("not part of a model")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "config.json").write_text("1")
        assert folder_digest(tmp_path) == before
        (tmp_path / "config.json").rename(tmp_path / "other.json")
        renamed = folder_digest(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"1")
        assert len({before, renamed, folder_digest(tmp_path)}) == 3

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone: no such folder\. Check model\.path"):
            folder_digest(tmp_path / "gone")
