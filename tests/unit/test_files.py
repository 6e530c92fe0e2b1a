"""Files that are whole whoever writes, reads or dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kimi_audio_ft.files import read_jsonl, write_json, write_jsonl, written_aside

WRITER = """
import sys
from pathlib import Path
from kimi_audio_ft.files import write_json
for number in range(400):
    write_json(Path(sys.argv[1]), [sys.argv[2], number, "x" * int(sys.argv[2])])
"""


@pytest.mark.slow
def test_two_processes_that_write_one_file_never_leave_half_of_it(tmp_path: Path) -> None:
    path, seen = tmp_path / "value.json", set()
    write_json(path, ["0", 0, ""])
    lengths = ("20000", "300000")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), length]) for length in lengths]
    while any(writer.poll() is None for writer in writers):
        writer, _, text = json.loads(path.read_text(encoding="utf-8"))
        assert len(text) == int(writer)
        seen.add(writer)
    assert [writer.returncode for writer in writers] == [0, 0] and seen > {"20000"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"n": 1}])
    with pytest.raises(TypeError, match="set"):
        write_jsonl(path, [{"n": 2}, {"n": {3}}])
    assert read_jsonl(path) == [{"n": 1}] and list(tmp_path.iterdir()) == [path]


def test_the_same_content_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "value.json"
    write_json(path, {"字": 1})
    before = path.stat()
    write_json(path, {"字": 1})
    assert path.stat().st_ino == before.st_ino and path.read_text(encoding="utf-8") == '{\n "字": 1\n}\n'
    with written_aside(path) as draft:
        draft.write_bytes(b"other")
    assert path.read_bytes() == b"other" and path.stat().st_ino != before.st_ino
