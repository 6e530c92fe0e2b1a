"""Manifests: what is read, and how every bad line is named."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest.conversation import TokenRange
from kimi_audio_ft.manifest.manifest import (
    Manifest,
    manifest_identity,
    read_manifest,
    reference_identity,
    require_recordings,
    require_references,
)
from kimi_audio_ft.manifest.part import Part

TOKENS = TokenRange(100, 120)
REMEDY = "docs/data.md describes the format"
Line = dict[str, Any]


def text(role: str, content: str) -> Line:
    return {"role": role, "message_type": "text", "content": content}


def audio(content: str = "a.wav", **more: Any) -> Line:
    return {"role": "user", "message_type": "audio", "content": content, **more}


def asr(**more: Any) -> Line:
    messages = [text("user", "转录"), audio(audio_tokens=[100, 119]), text("assistant", "你好")]
    return {"task_type": "understanding", "conversation": messages, **more}


def write(path: Path, *lines: Any) -> Path:
    write_jsonl(path, lines)
    return path


def refused(path: Path, line: int, *parts: str, tokens: TokenRange | None = None) -> None:
    """Reading fails with ``path:line: `` and then these parts, in this order."""
    expected = f"^{re.escape(f'{path}:{line}: ')}" + ".*".join(re.escape(part) for part in parts)
    with pytest.raises(DataError, match=expected) as caught:
        read_manifest(path, tokens=tokens)
    assert caught.value.line == line


@pytest.mark.parametrize("bad", ['{"task_type": ', "{'a': 1}", '{"a": 1} {"b": 2}', "nonsense"])
def test_malformed_json(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path / "m.jsonl", asr(), asr())
    path.write_text(path.read_text(encoding="utf-8") + bad + "\n", encoding="utf-8")
    refused(path, 3, "is not JSON (", "at column", "One JSON object a line")


@pytest.mark.parametrize("bad", ["[" * 100_000, "9" * 5000], ids=["deep", "long"])
def test_json_that_python_cannot_take(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(bad, encoding="utf-8")
    refused(path, 1, "is not usable JSON (", "One JSON object a line")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ([1], ["is not a JSON object", REMEDY]),
        ({"conversation": [text("user", "a")]}, ["key 'task_type' is missing; it must be a string", REMEDY]),
        ({"task_type": "understanding"}, ["key 'conversation' is missing; it must be a list", REMEDY]),
        (
            {"task_type": "asr", "conversation": [text("user", "a")]},
            ["task_type is 'asr'; it must be 'understanding'", REMEDY],
        ),
        ({"task_type": 3, "conversation": []}, ["key 'task_type' is 3; it must be a string", REMEDY]),
        ({"task_type": "u", "conversation": {"role": "user"}}, ["key 'conversation' is {'role'", "must be a list"]),
        ({"task_type": "u", "conversation": []}, ["'conversation' is empty; it needs at least one message", REMEDY]),
        (asr(id=[1]), ["key 'id' is [1]; it must be a string", REMEDY]),
        (asr(id=None), ["key 'id' is None; it must be a string", REMEDY]),
    ],
)
def test_bad_line(tmp_path: Path, row: Any, parts: list[str]) -> None:
    refused(write(tmp_path / "m.jsonl", asr(), row), 2, *parts)


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("hello", ["message 1: is 'hello'; it must be an object with role, message_type and content", REMEDY]),
        ({"message_type": "text", "content": "a"}, ["message 1: key 'role' is missing", REMEDY]),
        ({"role": "user", "content": "a"}, ["message 1: key 'message_type' is missing", REMEDY]),
        (text("system", "a"), ["message 1: role is 'system'; it must be one of user, assistant", REMEDY]),
        (text("user", "a") | {"message_type": "video"}, ["message 1: message_type is 'video'; it must be one of"]),
        (text("user", "a") | {"role": ["user"]}, ["message 1: role is ['user']; it must be one of"]),
        ({"role": "user", "message_type": "text"}, ["message 1: content is None; a text message needs a string"]),
        (text("user", "a") | {"content": 5}, ["message 1: content is 5; a text message needs a string", REMEDY]),
        (audio() | {"content": 5}, ["message 1: content is 5; an audio message needs the path of its recording"]),
        ({"role": "user", "message_type": "audio"}, ["message 1: content is missing; an audio message needs"]),
        (audio(""), ["message 1: content is missing; an audio message needs its recording's path"]),
    ],
)
def test_bad_message(tmp_path: Path, message: Any, parts: list[str]) -> None:
    refused(write(tmp_path / "m.jsonl", asr(conversation=[text("user", "a"), message])), 1, *parts)


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"start": "1.5", "end": 2}, "start is '1.5'; it must be seconds, a number from 0"),
        ({"start": -0.5, "end": 2}, "start is -0.5; it must be seconds, a number from 0"),
        ({"start": float("nan"), "end": 2}, "start is nan; it must be seconds"),
        ({"start": 0, "end": float("inf")}, "end is inf; it must be seconds"),
        ({"start": 0, "end": 10**400}, "end is 1000"),
        ({"start": True, "end": 2}, "start is True; it must be seconds"),
        ({"start": None, "end": 2}, "start is None; it must be seconds"),
        ({"start": 2, "end": 2.0}, "end is 2.0; it must be after start, which is 2"),
        ({"start": 2}, "end is missing; start and end go together"),
        ({"end": 2}, "start is missing; start and end go together"),
        ({"channel": 1.0}, "channel is 1.0; it must be a channel's number from 0"),
        ({"channel": -1}, "channel is -1; it must be a channel's number from 0"),
        ({"channel": "left"}, "channel is 'left'; it must be a channel's number from 0"),
    ],
)
def test_bad_part_of_a_recording(tmp_path: Path, part: Line, problem: str) -> None:
    path = write(tmp_path / "m.jsonl", asr(), asr(conversation=[audio(**part), text("assistant", "a")]))
    refused(path, 2, f"message 0: {problem}", REMEDY)


@pytest.mark.parametrize("columns", ["speaker", ["speaker"], {"speaker": 1}, {"speaker": None}, None])
def test_bad_columns(tmp_path: Path, columns: Any) -> None:
    rule = f"key 'columns' is {columns!r}; it must be an object whose values are strings"
    refused(write(tmp_path / "m.jsonl", asr(), asr(columns=columns)), 2, rule, REMEDY)


def test_parts_are_other_recordings_than_the_whole(tmp_path: Path) -> None:
    """Digests are of file and part, wherever the file lies; kept columns do not count."""
    parts: list[Line] = [
        {},
        {"start": 1, "end": 2.5},
        {"start": 1.0, "end": 2.5},
        {"start": 1, "end": 2},
        {"channel": 1},
    ]
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / "x").mkdir(parents=True)
        (folder / "x" / "r.wav").write_bytes(b"sound")
        write(
            folder / "m.jsonl",
            *(asr(conversation=[audio("x/r.wav", **part)], columns={"k": folder.name}) for part in parts),
        )
    first, second = (read_manifest(tmp_path / name / "m.jsonl") for name in "ab")
    digests = [digest.tobytes() for digest in first.recordings.digests()]
    assert len(set(digests)) == 4 and digests[1] == digests[2] and digests[0].hex() == sha256(b"sound").hexdigest()
    assert digests == [digest.tobytes() for digest in second.recordings.digests()]
    assert manifest_identity(first) == manifest_identity(second) and first[0].columns == {"k": "a"}
    assert [conversation.parts[0] for conversation in first] == [Part.of(part) for part in parts]
    others = [manifest_identity(first[index : index + 1]) for index in (0, 1, 3, 4)]
    assert len(set(others)) == 4


@pytest.mark.parametrize(
    ("codes", "problem"),
    [
        ([], "audio_tokens are []; they must be a non-empty list of integers"),
        ("100 101", "audio_tokens are '100 101'; they must be a non-empty list of integers"),
        ([100, 101.0], "audio_tokens hold 101.0; they must be integers"),
        ([100, "101"], "audio_tokens hold '101'; they must be integers"),
        ([True], "audio_tokens hold True; they must be integers"),
        ([100, 120], "audio_tokens hold 120, outside this model's range 100 to 119; they were made for another model"),
        ([99], "audio_tokens hold 99, outside this model's range 100 to 119; they were made for another model"),
        (None, "audio_tokens are missing; training and decoding need a pretokenized manifest"),
    ],
)
def test_bad_codes(tmp_path: Path, codes: Any, problem: str) -> None:
    path = write(tmp_path / "m.jsonl", asr(), asr(conversation=[audio(audio_tokens=codes)]))
    refused(path, 2, f"message 0: {problem}", "Run python -m kimi_audio_ft.tokenize on the manifest", tokens=TOKENS)


def test_absent_codes_are_refused_only_where_they_are_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", asr(conversation=[audio()]))
    refused(path, 1, "message 0: audio_tokens are missing", "kimi_audio_ft.tokenize", tokens=TOKENS)
    assert len(read_manifest(path)) == 1


@pytest.mark.parametrize(
    ("content", "byte"),
    [
        (json.dumps(asr(), ensure_ascii=False).encode("gbk"), "0xc4"),  # 转录 in GBK happens to be UTF-8, 你 is not
        (json.dumps(asr(), ensure_ascii=False).encode("utf-16"), "0xff"),  # the byte order mark
        (b"\xef\xbb\xbf" + json.dumps(asr()).encode() + b"\xfe\n", "0xfe"),  # behind a mark
    ],
    ids=["gbk", "utf-16", "marked"],
)
def test_other_encodings(tmp_path: Path, content: bytes, byte: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    refused(path, 1, f"is not UTF-8 (byte {byte})", "Convert the file to UTF-8")


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(asr()).replace("\\u4f60", "\\ud83d") + "\n", encoding="utf-8")
    refused(path, 1, "holds half of a character, \\ud83d, which no UTF-8 file can hold", REMEDY)
    path.write_text(json.dumps(asr()).replace("\\u4f60", "\\ud83d\\ude42") + "\n", encoding="utf-8")
    assert read_manifest(path)[0].reference == "🙂好"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_conversations(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: holds no conversation\. Prepare the data again"):
        read_manifest(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read \(No such file.*\)\. Check the option"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read_manifest(tmp_path)


def test_duplicate_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", asr(id="x"), asr(id="y"), asr(id="x"))
    refused(path, 3, "id 'x' stands already in line 1", "Every conversation needs an id of its own")


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    row = json.dumps(asr(), ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n" + row + b"\r\n" + row)
    conversations = read_manifest(path)
    assert [c.line for c in conversations] == [1, 3, 4] and [c.id for c in conversations] == ["1", "3", "4"]
    assert {c.reference for c in conversations} == {"你好"}


def test_audio_paths(tmp_path: Path) -> None:
    conversation = [audio("x/a.wav"), audio("/data/b.wav"), text("assistant", "c")]
    path = write(tmp_path / "m.jsonl", asr(conversation=conversation))
    assert read_manifest(path)[0].audio_paths == (tmp_path / "x/a.wav", Path("/data/b.wav"))
    assert read_manifest(path, audio_root="/root")[0].audio_paths == (Path("/root/x/a.wav"), Path("/data/b.wav"))


def test_audio_paths_are_absolute_when_the_manifest_s_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "m.jsonl", asr())
    monkeypatch.chdir(tmp_path)
    assert read_manifest("m.jsonl")[0].audio_paths == (tmp_path / "a.wav",)


def test_the_prompt_replaces_every_text_of_the_user_and_nothing_else(tmp_path: Path) -> None:
    first = asr()["conversation"]
    messages = [*first, text("user", "再来"), audio("b.wav", audio_tokens=[105]), text("assistant", "再见")]
    path = write(tmp_path / "m.jsonl", asr() | {"conversation": messages}, {**asr(), "conversation": first[1:]})
    several, bare = read_manifest(path, prompt="请写")
    assert [m.get("content") for m in several.messages] == ["请写", "a.wav", "你好", "请写", "b.wav", "再见"]
    assert several.messages[4]["audio_tokens"] == [105]
    assert bare.messages == tuple(first[1:])
    assert read_manifest(path)[0].messages[0]["content"] == "转录"


@pytest.mark.parametrize(
    ("messages", "reference"),
    [
        ([text("user", "a"), text("assistant", "b")], "b"),
        ([text("user", "a"), text("assistant", "b"), text("user", "c"), text("assistant", "d")], "d"),
        ([text("user", "a"), text("assistant", "b"), text("assistant", "c")], "bc"),
        ([text("assistant", "b"), text("user", "c")], ""),
        ([text("user", "a"), audio(), text("assistant", "")], ""),
    ],
)
def test_reference_is_the_text_of_the_last_answer(tmp_path: Path, messages: list[Line], reference: str) -> None:
    assert read_manifest(write(tmp_path / "m.jsonl", asr(conversation=messages)))[0].reference == reference


def test_recording_is_the_group_or_else_the_conversation_itself(tmp_path: Path) -> None:
    lines = [asr(id="a", group="meeting"), asr(id="b", group=7), asr(id="c", group=""), asr()]
    path = write(tmp_path / "m.jsonl", *lines)
    assert [conversation.recording for conversation in read_manifest(path)] == ["meeting", "7", "c", "4"]
    refused(write(tmp_path / "n.jsonl", asr(), asr(group=["x"])), 2, "key 'group' is ['x']; it must be a string")


def test_codes_are_counted_over_the_audio_messages_of_a_conversation(tmp_path: Path) -> None:
    two = [audio(audio_tokens=[105]), text("assistant", "好"), audio(audio_tokens=[105] * 3), text("assistant", "再见")]
    lines = [asr(id="a"), asr(id="b", conversation=two), asr(id="c", conversation=[text("user", "a")]), asr(id="d")]
    manifest = read_manifest(write(tmp_path / "m.jsonl", *lines), tokens=TOKENS)
    assert manifest.num_codes().tolist() == [2, 4, 0, 2]
    assert manifest[1:3].num_codes().tolist() == [4, 0]


SPOKEN = audio(audio_tokens=[100]) | {"role": "assistant"}
NO_ANSWER = "does not end with an assistant text message.*Add the transcript"


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([text("user", "a")], NO_ANSWER),
        ([text("user", "a"), text("assistant", "b"), text("user", "c")], NO_ANSWER),
        ([text("user", "a"), SPOKEN], NO_ANSWER),
        ([text("user", "a"), SPOKEN, text("assistant", "b")], "an assistant message of type audio.*Leave the conv"),
    ],
)
def test_an_answer_in_text_is_required(tmp_path: Path, messages: list[Line], problem: str) -> None:
    conversations = read_manifest(write(tmp_path / "m.jsonl", asr(), asr() | {"conversation": messages}))
    require_references(conversations[:1])
    with pytest.raises(DataError, match=rf"m\.jsonl:2: .*{problem}"):
        require_references(conversations)


def test_recordings_are_required(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    bare = {"role": "user", "message_type": "audio", "audio_tokens": [100]}
    kind = {"task_type": "understanding"}
    rows = [asr(), {**kind, "conversation": [bare]}, {**kind, "conversation": [audio("b.wav")]}]
    path = write(tmp_path / "m.jsonl", *rows)
    manifest = read_manifest(path)
    require_recordings(manifest[:1])
    with pytest.raises(DataError, match=r"m\.jsonl:2: 1 audio messages but 0 recordings.*data\.features=none"):
        require_recordings(manifest[:2])
    expected = rf"m\.jsonl:3: there is no recording {tmp_path / 'b.wav'}\. Check the path and data\.audio_root"
    with pytest.raises(DataError, match=expected):
        require_recordings(manifest[2:])


# What a manifest is, however its file is named or lies.


def corpus(folder: Path, transcript: str = "你好", sound: bytes = b"sound") -> Manifest:
    folder.mkdir()
    (folder / "a.wav").write_bytes(sound)
    conversation = [text("user", "转录"), audio(audio_tokens=[100]), text("assistant", transcript)]
    return read_manifest(write(folder / "m.jsonl", asr(conversation=conversation)))


def test_identity_is_that_of_the_content(tmp_path: Path) -> None:
    identity = manifest_identity(corpus(tmp_path / "one"))
    assert manifest_identity(corpus(tmp_path / "other transcript", transcript="您好")) != identity
    assert manifest_identity(corpus(tmp_path / "other audio", sound=b"sounds")) != identity
    shutil.move(tmp_path / "one", tmp_path / "moved")
    moved = read_manifest(tmp_path / "moved" / "m.jsonl")
    assert manifest_identity(moved) == identity
    assert manifest_identity(read_manifest(tmp_path / "moved" / "m.jsonl", prompt="写")) != identity
    (tmp_path / "moved" / "a.wav").unlink()
    assert manifest_identity(moved) != identity


def test_identity_of_what_is_scored_knows_neither_prompt_nor_codes(tmp_path: Path) -> None:
    own = reference_identity(corpus(tmp_path / "one"))
    place = tmp_path / "one" / "m.jsonl"
    assert reference_identity(read_manifest(place, prompt="写")) == own
    lines = place.read_text(encoding="utf-8")
    (tmp_path / "one" / "other.jsonl").write_text(lines.replace("[100]", "[101]").replace("转录", "写"), "utf-8")
    other = read_manifest(tmp_path / "one" / "other.jsonl")
    assert reference_identity(other) == own != manifest_identity(other)  # tokenized for another model
    assert reference_identity(corpus(tmp_path / "other transcript", transcript="您好")) != own
    assert reference_identity(corpus(tmp_path / "other audio", sound=b"sounds")) != own
    (tmp_path / "one" / "a.wav").unlink()
    assert reference_identity(read_manifest(place)) != reference_identity(other) != own  # codes are all there is
