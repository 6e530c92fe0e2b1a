"""Manifests: JSONL, one conversation a line, in the published Kimi-Audio format.

Lines are checked one by one, so that every error names its file and line; nothing is skipped in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.data.layout import before_last_answer
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.signature import digest_of, file_digest

ROLES = ("user", "assistant")
MESSAGE_TYPES = ("text", "audio")
# JSON's escapes can spell these; they are characters only in pairs, which the parser joins.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
TOKENIZE_REMEDY = "Run python -m kimi_audio_ft.tokenize on the manifest"


@dataclass(frozen=True)
class TokenRange:
    """Where the model's audio codes lie: ``first`` up to, but not including, ``end``."""

    first: int
    end: int


@dataclass(frozen=True)
class Conversation:
    """One checked line of a manifest.

    audio_paths: the recording of every audio message, in order, made absolute.
    reference: the text of the last assistant turn; empty when there is none.
    """

    id: str
    line: int
    task_type: str
    messages: tuple[dict[str, Any], ...]
    audio_paths: tuple[Path, ...]
    reference: str


def read_manifest(
    path: str | Path, audio_root: str | None = None, prompt: str | None = None, tokens: TokenRange | None = None
) -> list[Conversation]:
    """Every line of a manifest, checked.

    Args:
        audio_root: folder that relative audio paths start from; None is the manifest's own.
        prompt: put in the place of the user's own text messages.
        tokens: also require ``audio_tokens`` in this range on every audio message (a *pretokenized* manifest).

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line breaks a rule.
    """
    path = Path(path)
    root = Path(audio_root) if audio_root else path.parent
    conversations: list[Conversation] = []
    first_line: dict[str, int] = {}
    for number, text in numbered_lines(path):
        conversation = parse_line(text, path, number, root, tokens)
        if conversation.id in first_line:
            problem = f"id {conversation.id!r} stands already in line {first_line[conversation.id]}"
            raise DataError(path, problem, "Every conversation needs an id of its own", number)
        first_line[conversation.id] = number
        conversations.append(with_prompt(conversation, prompt) if prompt else conversation)
    if not conversations:
        raise DataError(path, "holds no conversation", "Prepare the data again, or check the path")
    return conversations


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that hold something, with their numbers; only a line feed ends a line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check the option that names it") from None
    with file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"is not UTF-8 (byte {error.object[error.start]:#04x})"
                raise DataError(path, problem, "Convert the file to UTF-8", number) from None
            if text.strip():
                yield number, text


def parse_line(text: str, path: Path, number: int, audio_root: Path, tokens: TokenRange | None = None) -> Conversation:
    """One manifest line as a checked conversation."""

    def refuse(problem: str, remedy: str = "See the manifest format in README.md") -> DataError:
        return DataError(path, problem, remedy, number)

    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise refuse(f"is not JSON ({error.msg} at column {error.colno})", "One JSON object a line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists of thousands of levels
        raise refuse(f"is not usable JSON ({error})", "One JSON object a line") from None
    problem = _problem_of_line(value)
    if problem:
        raise refuse(problem)
    audio_paths = []
    for position, message in enumerate(value["conversation"]):
        problem = _problem_of(message, tokens)
        if problem:
            remedy = TOKENIZE_REMEDY if "audio_tokens" in problem else "See the manifest format in README.md"
            raise refuse(f"message {position}: {problem}", remedy)
        if message["message_type"] == "audio" and message.get("content"):
            audio_paths.append((audio_root / message["content"]).absolute())
    return Conversation(
        id=str(value.get("id", number)),
        line=number,
        task_type=value["task_type"],
        messages=tuple(value["conversation"]),
        audio_paths=tuple(audio_paths),
        reference=reference_of(value["conversation"]),
    )


def _problem_of_line(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "is not a JSON object; a line holds one"
    for key, kind in (("task_type", str), ("conversation", list)):
        if not isinstance(value.get(key), kind):
            found = "is missing" if key not in value else f"is {value[key]!r}"
            return f"key {key!r} {found}; it must be a {'list' if kind is list else 'string'}"
    if not isinstance(value.get("id", ""), (str, int)):
        return f"key 'id' is {value['id']!r}; it must be a string"
    if not value["conversation"]:
        return "'conversation' is empty; it needs at least one message"
    lone = _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False))
    if lone:
        return f"holds half of a character, \\u{ord(lone[0]):x}, which no UTF-8 file can hold"
    return None


def _problem_of(message: Any, tokens: TokenRange | None) -> str | None:
    if not isinstance(message, dict):
        return f"is {message!r}; it must be an object with role, message_type and content"
    for key, choices in (("role", ROLES), ("message_type", MESSAGE_TYPES)):
        if key not in message:
            return f"key {key!r} is missing"
        if message[key] not in choices:
            return f"{key} is {message[key]!r}; it must be one of {', '.join(choices)}"
    if message["message_type"] == "text":
        if not isinstance(message.get("content"), str):
            return f"content is {message.get('content')!r}; a text message needs a string"
        return None
    if not isinstance(message.get("content", ""), str):
        return f"content is {message['content']!r}; an audio message needs the path of its recording"
    if "audio_tokens" not in message and tokens is None:
        return None if message.get("content") else "content is missing; an audio message needs its recording's path"
    return _problem_of_tokens(message.get("audio_tokens"), tokens)


def _problem_of_tokens(codes: Any, tokens: TokenRange | None) -> str | None:
    if codes is None:
        return "audio_tokens are missing; training and decoding need a pretokenized manifest"
    if not isinstance(codes, list) or not codes:
        return f"audio_tokens are {codes!r}; they must be a non-empty list of integers"
    for code in codes:
        if type(code) is not int:
            return f"audio_tokens hold {code!r}; they must be integers"
        if tokens is not None and not tokens.first <= code < tokens.end:
            return (
                f"audio_tokens hold {code}, outside this model's range {tokens.first} to {tokens.end - 1}; "
                "they were made for another model"
            )
    return None


def last_answer(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Messages of the assistant turn that ends a conversation; none when it ends with the user's."""
    return messages[len(before_last_answer(messages)) :]


def reference_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Text of the last assistant turn."""
    return "".join(m["content"] for m in last_answer(messages) if m["message_type"] == "text")


def with_prompt(conversation: Conversation, prompt: str) -> Conversation:
    """The same conversation with another text prompt in every user turn that has one."""
    messages = tuple(
        {**m, "content": prompt} if m["role"] == "user" and m["message_type"] == "text" else m
        for m in conversation.messages
    )
    return replace(conversation, messages=messages)


def manifest_identity(conversations: list[Conversation]) -> str:
    """Identity of what is said in a manifest: ids, messages and the bytes of the recordings, wherever they lie.

    Recordings that are not there (a pretokenized manifest may travel without them) count by their codes alone.
    """
    facts = []
    for conversation in conversations:
        messages = [{k: v for k, v in m.items() if k != "content" or m["message_type"] == "text"}
                    for m in conversation.messages]  # fmt: skip
        audio = [file_digest(path) if path.is_file() else "" for path in conversation.audio_paths]
        facts.append([conversation.id, conversation.task_type, messages, audio])
    return digest_of(facts)


def require_references(conversations: list[Conversation], path: str | Path) -> None:
    """Scoring and training need a text answer at the end of every conversation, and no answer in audio.

    An answer in audio would need the audio branch and its loss, which a transcriber has no use for; taking only the
    text of such a conversation would ignore in silence what the manifest asks for.
    """
    for conversation in conversations:
        if not any(m["message_type"] == "text" for m in last_answer(conversation.messages)):
            problem = "does not end with an assistant text message, so there is nothing to learn or to compare with"
            raise DataError(path, problem, "Add the transcript as an assistant text message", conversation.line)
        if any(m["role"] == "assistant" and m["message_type"] == "audio" for m in conversation.messages):
            problem = "has an assistant message of type audio; answers are learned and scored as text only"
            raise DataError(path, problem, "Leave the conversation out, or give its text instead", conversation.line)


def require_recordings(conversations: Sequence[Conversation], path: str | Path) -> None:
    """Features need the recording of every audio message."""
    for conversation in conversations:
        messages = sum(m["message_type"] == "audio" for m in conversation.messages)
        if messages != len(conversation.audio_paths):
            problem = f"{messages} audio messages but {len(conversation.audio_paths)} recordings"
            remedy = "Give every audio message the path of its recording as content, or set data.features=none"
            raise DataError(path, problem, remedy, conversation.line)
        for audio in conversation.audio_paths:
            if not audio.is_file():
                remedy = "Check the path and data.audio_root, or set data.features=none"
                raise DataError(path, f"there is no recording {audio}", remedy, conversation.line)
