"""Manifests that are read line by line: what is asked for is what the file says, and what was looked up is kept."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.manifest import index
from kimi_audio_ft.manifest.conversation import TASK, Conversation, TokenRange, parse_line
from kimi_audio_ft.manifest.index import Source, chunks_of, lines_of, over_cores
from kimi_audio_ft.manifest.manifest import (
    Manifest,
    manifest_identity,
    numbered_lines,
    read_manifest,
    require_recordings,
    require_references,
)
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.signature import digest_of
from tests.unit.conftest import Tiny, rewrite

TOKENS = TokenRange(1467, 1723)
Row = dict[str, Any]


def some_rows(count: int, seed: int = 0) -> list[Row]:
    """Ragged conversations: one or two audios, turns, with and without id, recordings and further keys."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        messages: list[Row] = [{"role": "user", "message_type": "text", "content": rng.choice(["转录", 'a"\\\n', "é"])}]
        for audio in range(rng.randint(1, 2)):
            codes = [rng.randrange(TOKENS.first, TOKENS.end) for _ in range(rng.randint(1, 30))]
            named = {"content": f"clips/{number}-{audio}.wav", "duration": 0.5} if number % 3 else {}
            named |= {"start": number / 7, "end": number, "channel": audio} if number % 3 == 2 else {}
            messages.append({"role": "user", "message_type": "audio", **named, "audio_tokens": codes})
        messages.append({"role": "assistant", "message_type": "text", "content": "你好🙂"[: rng.randint(0, 3)]})
        name = {"id": f"名{number}"} if number % 5 else {}
        rows.append({**name, "task_type": "understanding", "conversation": messages})
    return rows


def write(path: Path, rows: list[Row]) -> Path:
    """With a byte order mark, blank lines, both kinds of line ends and both ways to write a character."""
    lines = [json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows)]
    text = "".join(line + ("\n", "\r\n", "\n \n")[number % 3] for number, line in enumerate(lines))
    path.write_bytes(b"\xef\xbb\xbf" + text.rstrip().encode())
    return path


@pytest.fixture
def rows() -> list[Row]:
    return some_rows(60)


@pytest.fixture
def path(tmp_path: Path, rows: list[Row]) -> Path:
    (tmp_path / "clips").mkdir()
    for name in ("1-0", "2-0", "2-1", "59-0"):
        (tmp_path / "clips" / f"{name}.wav").write_bytes(name.encode())
    return write(tmp_path / "m.jsonl", rows)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a line or two, and so several processes."""
    monkeypatch.setattr(index, "CHUNK_BYTES", 300)


def parsed(path: Path, prompt: str | None = None) -> list[Conversation]:
    asked = Source(path, path.parent, prompt).asked
    return [parse_line(text, path, number, path.parent, TOKENS, asked) for number, text in numbered_lines(path)]


def plain_identity(conversations: list[Conversation]) -> str:
    """The identity as the hash of one list, all of it in memory."""
    facts = []
    for c in conversations:
        messages = [{k: v for k, v in m.items() if k != "content" or m["message_type"] == "text"} for m in c.messages]
        named = zip(c.audio_paths, c.parts, strict=True)
        audio = [part.digest(file_digest(path)) if path.is_file() else "" for path, part in named]
        facts.append([c.id, TASK, messages, audio])
    return digest_of(facts)


@pytest.mark.parametrize("prompt", [None, "请写"])
def test_every_conversation_is_that_of_its_line(path: Path, rows: list[Row], prompt: str | None) -> None:
    manifest, expected = read_manifest(path, prompt=prompt, tokens=TOKENS), parsed(path, prompt)
    assert len(manifest) == len(rows) == len(expected) and list(manifest) == expected
    for place in random.Random(1).sample(range(-60, 60), 120):
        assert manifest[place] == expected[place]
        assert manifest.line_of(place) == expected[place].line
    assert list(manifest[3:50:7]) == expected[3:50:7] and list(manifest[:-1][10:]) == expected[10:-1]
    assert list(manifest.select(np.array([9, 4, 4]))) == [expected[9], expected[4], expected[4]]
    with pytest.raises(IndexError):
        manifest[60]


@pytest.mark.usefixtures("small_chunks")
def test_many_processes_find_the_same(path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared = read_manifest(path, tokens=TOKENS, tokenizer=tiny.tokenizer)
    monkeypatch.setattr(index, "CHUNK_BYTES", 1 << 20)
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "other store"))
    alone = read_manifest(path, tokens=TOKENS, tokenizer=tiny.tokenizer)
    for name, values in vars(alone.columns).items():
        assert np.array_equal(getattr(shared.columns, name), values), name


@pytest.mark.usefixtures("small_chunks")
def test_identity_is_the_hash_of_the_whole(path: Path) -> None:
    for prompt in (None, "请写"):
        manifest = read_manifest(path, prompt=prompt, tokens=TOKENS)
        assert manifest_identity(manifest) == plain_identity(parsed(path, prompt))
    assert manifest_identity(manifest[7:30]) == plain_identity(parsed(path, "请写")[7:30])


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("first", "again", "bad"), [(1, 2, 59), (1, 59, None), (30, 31, 32), (2, 50, 51)])
def test_the_first_problem_of_a_file_is_told(
    tmp_path: Path, rows: list[Row], first: int, again: int, bad: int | None
) -> None:
    rows[again]["id"] = rows[first]["id"] = "same"
    rows[59]["id"] = "same"  # the second that repeats it, or itself
    lines = [json.dumps(row) for row in rows]
    if bad is not None:
        lines[bad] = "{"
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines))
    expected = rf"^{re.escape(str(path))}:{again + 1}: id 'same' stands already in line {first + 1}\. Every conv"
    with pytest.raises(DataError, match=expected):
        read_manifest(path)
    lines[0] = "{"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}:1: is not JSON"):
        read_manifest(path)


def test_lengths_are_those_of_the_layout_with_the_prompt(path: Path, tiny: Tiny) -> None:
    from kimi_audio_ft.manifest.conversation import layout_conversation

    for prompt in (None, "请把这段语音写成文字"):
        measured = read_manifest(path, prompt=prompt, tokens=TOKENS, tokenizer=tiny.tokenizer)
        for manifest in (measured, read_manifest(path, prompt=prompt, tokens=TOKENS)[5:20]):
            for for_generation in (False, True):
                layouts = [layout_conversation(c.messages, tiny.tokenizer, TASK, for_generation) for c in manifest]
                expected = [[len(layout), sum(layout.text_loss_mask)] for layout in layouts]
                assert manifest.lengths(tiny.tokenizer, for_generation).tolist() == expected


class TestRemembered:
    """What was looked up is read from the store: values planted there show it."""

    @pytest.fixture
    def plant(self, private_store: Path) -> Callable[[str, Any], int]:
        def plant(name: str, value: Any) -> int:
            changed = 0
            for place in (private_store / "manifests").glob("*.npz"):
                with np.load(place, allow_pickle=False) as file:
                    arrays = {key: file[key] for key in file.files}
                if name in arrays:
                    np.savez(place, **arrays | {name: np.broadcast_to(value, arrays[name].shape)})  # type: ignore[arg-type]
                    changed += 1
            return changed

        return plant

    def test_the_index(self, path: Path, tiny: Tiny, plant: Callable[[str, Any], int]) -> None:
        def opened(**options: Any) -> int:
            return read_manifest(path, **{"tokens": TOKENS} | options).line_of(0)

        assert opened() == 1 and plant("line", 77) == 1 and opened() == 77
        assert opened(tokens=None) == 1 and opened(tokens=TokenRange(1000, 1723)) == 1  # other checks
        assert opened(prompt="写") == 77  # no line is measured, so the prompt changes nothing
        assert opened(tokenizer=tiny.tokenizer) == 1 and plant("line", 78) == 4
        assert opened(prompt="写", tokenizer=tiny.tokenizer) == 1
        copy = path.with_name("copy.jsonl")
        copy.write_bytes(path.read_bytes())
        path = copy
        assert opened() == 78
        copy.write_bytes(path.read_bytes() + b"\n")
        assert opened() == 1

    def test_the_identity(self, path: Path, plant: Callable[[str, Any], int]) -> None:
        def identity(prompt: str | None = None) -> str:
            return manifest_identity(read_manifest(path, prompt=prompt, tokens=TOKENS))

        before = identity()
        assert plant("identity", np.array("planted".ljust(16))) == 1 and identity() == "planted".ljust(16)
        assert identity("写") not in (before, identity())
        recording = path.parent / "clips" / "1-0.wav"
        recording.write_bytes(b"other")
        changed = identity()
        assert changed == plain_identity(parsed(path)) != before
        recording.unlink()
        assert identity() == plain_identity(parsed(path)) not in (before, changed)

    def test_a_damaged_memory_is_made_again(self, path: Path, private_store: Path) -> None:
        manifest_identity(read_manifest(path, tokens=TOKENS))
        for place in (private_store / "manifests").glob("*.npz"):
            place.write_bytes(place.read_bytes()[:-100])
        manifest = read_manifest(path, tokens=TOKENS)
        assert list(manifest) == parsed(path) and manifest_identity(manifest) == plain_identity(parsed(path))

    def test_no_pickle(self, private_store: Path, tmp_path: Path, path: Path) -> None:
        """An object in the place of numbers is not loaded."""
        read_manifest(path, tokens=TOKENS)
        (place,) = (private_store / "manifests").glob("*.npz")
        np.savez(place, offset=np.array([{"an": "object"}], dtype=object))
        assert list(read_manifest(path, tokens=TOKENS)) == parsed(path)


class TestChangedFile:
    CHANGED = r"m\.jsonl: was changed while it was being read\. Leave it alone, and start again"

    @pytest.mark.parametrize("opened", [True, False])
    def test_written_again(self, path: Path, opened: bool) -> None:
        manifest = read_manifest(path, tokens=TOKENS)
        if opened:
            _ = manifest[0]
        path.write_bytes(path.read_bytes() + b" ")
        for read in (lambda: manifest[5], lambda: manifest_identity(manifest), lambda: list(manifest[3:])):
            with pytest.raises(DataError, match=self.CHANGED):
                read()

    @pytest.mark.parametrize("opened", [True, False])
    def test_of_the_same_size_and_time(self, path: Path, tiny: Tiny, opened: bool) -> None:
        manifest = read_manifest(path, tokens=TOKENS)
        before = manifest_identity(manifest) if opened else None
        rewrite(path, path.read_bytes().replace(b"duration", b"Duration"))
        assert manifest_identity(read_manifest(path, tokens=TOKENS)) != before
        with pytest.raises(DataError, match=self.CHANGED):
            _ = manifest[5]
        with pytest.raises(DataError, match=self.CHANGED):
            manifest.lengths(tiny.tokenizer)

    def test_replaced(self, path: Path) -> None:
        """The file as it was is still there for those who had opened it."""
        first, second, third = (read_manifest(path, tokens=TOKENS) for _ in range(3))
        expected = parsed(path)
        assert first[0] == expected[0]
        other = path.with_name("other.jsonl")
        other.write_text("{}\n")
        other.replace(path)
        assert list(first) == expected
        with pytest.raises(DataError, match=self.CHANGED):
            _ = second[0]
        path.unlink()
        with pytest.raises(DataError, match=r"m\.jsonl: cannot be read any more \(No such file"):
            _ = third[0]


def test_another_process_opens_the_file_itself(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(path.parent)
    manifest = read_manifest("m.jsonl", tokens=TOKENS)
    expected = list(manifest)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sent = ForkingPickler.loads(ForkingPickler.dumps(manifest[2:]))
    assert isinstance(sent, Manifest) and list(sent) == expected[2:] == list(manifest)[2:]


def test_problems_of_selections(tmp_path: Path, rows: list[Row]) -> None:
    """Only the conversations that are used have to be right, and the first wrong one of them is named."""
    rows = [row for row in rows if "content" in row["conversation"][1]]
    for row in rows:
        for message in row["conversation"][1:-1]:
            recording = tmp_path / message["content"]
            recording.parent.mkdir(exist_ok=True)
            recording.write_bytes(b"x")
    del rows[7]["conversation"][1]["content"]
    gone = rows[3]["conversation"][1]["content"]
    (tmp_path / gone).unlink()
    rows[5]["conversation"].pop()
    manifest = read_manifest(write(tmp_path / "m.jsonl", rows), tokens=TOKENS)
    usable = manifest.select(np.array([0, 9, 8]))
    require_recordings(usable)
    require_references(usable)
    with pytest.raises(DataError, match=rf"m\.jsonl:{manifest.line_of(3)}: there is no recording {tmp_path / gone}\."):
        require_recordings(manifest.select(np.array([0, 3, 7])))
    with pytest.raises(DataError, match=rf"m\.jsonl:{manifest.line_of(7)}: . audio messages but . recordings"):
        require_recordings(manifest.select(np.array([0, 7, 3])))
    with pytest.raises(DataError, match=rf"m\.jsonl:{manifest.line_of(5)}: does not end with"):
        require_references(manifest[4:])


# Files in pieces, and work shared over processes: nothing lost, in order, and nobody left behind.


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("content", [b"", b"\n", b"one\n\ntwo\r\nthree" + b"x" * 90, b"a\n" * 50])
def test_chunks_hold_every_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, content: bytes
) -> None:
    monkeypatch.setattr(index, "CHUNK_BYTES", size)
    path = tmp_path / "lines"
    path.write_bytes(content)
    pieces = chunks_of(path)
    lines = [line for piece in pieces for line in lines_of(path, piece)]
    assert b"".join(raw for _, _, raw in lines) == content
    assert [number for number, _, _ in lines] == list(range(1, len(lines) + 1))
    assert all(content[place : place + len(raw)] == raw for _, place, raw in lines)
    assert len(pieces) >= min(len(lines), len(content) // 200)


def where(item: int) -> tuple[int, int]:
    return item * item, os.getpid()


def test_results_come_in_order_from_every_process() -> None:
    results = list(over_cores(where, range(100)))
    assert [square for square, _ in results] == [item * item for item in range(100)]
    cores = min(len(os.sched_getaffinity(0)), 8)
    processes = {process for _, process in results}
    assert len(processes) == cores and (cores == 1 or os.getpid() not in processes)
    assert {process for _, process in over_cores(where, range(3))} == {os.getpid()}  # not worth a process


def test_the_first_error_is_raised() -> None:
    def work(item: int) -> int:
        if item in (21, 22, 40):
            raise DataError("m.jsonl", "is bad", line=item)
        return item

    seen = []
    with pytest.raises(DataError, match=r"^m\.jsonl:21: is bad$"):
        for result in over_cores(work, range(64)):
            seen.append(result)
    assert seen == list(range(21))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="one core: no other process")
def test_a_killed_process_is_reported() -> None:
    def work(item: int) -> int:
        if item == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(RuntimeError, match="was killed; is there memory left"):
        list(over_cores(work, range(64)))


def test_no_process_outlives_a_killed_caller() -> None:
    """Every process holds the pipe of the caller's output: it ends when the last of them has."""
    code = (
        "from kimi_audio_ft.manifest.index import over_cores\n"
        "for number, _ in enumerate(over_cores(lambda item: bytes(1 << 16), range(10**6))):\n"
        "    if number == 20: print('running', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None and caller.stdout.readline() == "running\n"
        caller.kill()
        caller.communicate(timeout=300)
    assert caller.returncode == -signal.SIGKILL
