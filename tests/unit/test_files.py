"""Files that are whole whoever writes, reads or dies."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from kimi_audio_ft.files import read_jsonl, write_json, write_jsonl, written_aside

WRITER = """
import select, sys
from itertools import count
from pathlib import Path
from kimi_audio_ft.files import write_json
for number in count():
    if select.select([sys.stdin], [], [], 0)[0]:  # which has ended
        break
    write_json(Path(sys.argv[1]), [sys.argv[2], number, "x" * int(sys.argv[2])])
"""


@pytest.mark.slow
def test_two_processes_that_write_one_file_never_leave_half_of_it(tmp_path: Path) -> None:
    path, seen, lengths = tmp_path / "value.json", set[tuple[str, int]](), ("20000", "300000")
    write_json(path, ["0", 0, ""])
    with ExitStack() as ended:
        commands = [[sys.executable, "-c", WRITER, str(path), length] for length in lengths]
        writers = [ended.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE)) for words in commands]
        while len(seen) < 100 or not {writer for writer, _ in seen}.issuperset(lengths):
            assert all(process.poll() is None for process in writers)
            writer, number, text = json.loads(path.read_text(encoding="utf-8"))
            assert len(text) == int(writer)
            seen.add((writer, number))
    assert [process.returncode for process in writers] == [0, 0]
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
