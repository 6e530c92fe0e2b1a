"""Conversations: parsing and checks of one manifest line, and its layout in two token streams, as published."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.manifest.part import Part, problem_of_part
from kimi_audio_ft.paths import data_page

ROLES = ("user", "assistant")
MESSAGE_TYPES = ("text", "audio")
TASK = "understanding"
# Lone surrogates, which JSON escapes can produce; the parser joins valid pairs.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
TOKENIZE_REMEDY = "Run python -m kimi_audio_ft.tokenize on the manifest"


@dataclass(frozen=True)
class TokenRange:
    """Ids of the model's audio codes: from ``first`` up to, but not including, ``end``."""

    first: int
    end: int


@dataclass(frozen=True)
class Conversation:
    """One checked line of a manifest.

    audio_paths: absolute path of every audio message's recording, in order. parts: what is heard of each.
    reference: text of the last assistant turn, or empty.
    recording: the line's ``group`` (the recording that the audio was cut from), or its id.
    columns: what ``keep_columns`` of prepare kept of the CSV, by name.
    """

    id: str
    line: int
    messages: tuple[dict[str, Any], ...]
    audio_paths: tuple[Path, ...]
    parts: tuple[Part, ...]
    reference: str
    recording: str
    columns: Mapping[str, str]


def parse_line(
    text: str,
    path: Path,
    number: int,
    audio_root: Path,
    tokens: TokenRange | None = None,
    asked: Callable[[dict[str, Any], str, int], Sequence[dict[str, Any]]] | None = None,
) -> Conversation:
    """Parses one manifest line; ``asked`` gives its messages as the model has them, from value, id and number."""
    value = checked_line(text, path, number, tokens)
    messages = value["conversation"]
    return Conversation(
        id=id_of(value, number),
        line=number,
        messages=tuple(asked(value, id_of(value, number), number) if asked else messages),
        audio_paths=tuple((audio_root / name).absolute() for name in recordings_of(messages) if name),
        parts=tuple(part for name, part in zip(recordings_of(messages), parts_of(messages), strict=True) if name),
        reference=reference_of(messages),
        recording=str(value.get("group") or id_of(value, number)),
        columns=value.get("columns", {}),
    )


def checked_line(text: str, path: Path, number: int, tokens: TokenRange | None = None) -> dict[str, Any]:
    """Parses and validates a manifest line as a JSON object; a DataError names file, line and broken rule."""

    def refuse(problem: str, remedy: str = "") -> DataError:
        return DataError(path, problem, remedy or f"{data_page()} describes the format", number)

    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise refuse(f"is not JSON ({error.msg} at column {error.colno})", "One JSON object a line") from None
    except (ValueError, RecursionError) as error:  # e.g. a huge number or deeply nested lists
        raise refuse(f"is not usable JSON ({error})", "One JSON object a line") from None
    # The bytes were decoded strictly, so that lone surrogates can only come from JSON escapes.
    escapes = "\\ud" in text or "\\uD" in text
    problem = _problem_of_line(value, escapes)
    if problem:
        raise refuse(problem)
    for position, message in enumerate(value["conversation"]):
        problem = _problem_of(message, tokens)
        if problem:
            raise refuse(f"message {position}: {problem}", TOKENIZE_REMEDY if "audio_tokens" in problem else "")
    return value


def id_of(value: Mapping[str, Any], number: int) -> str:
    """A line's id, or its number if it has none."""
    return str(value.get("id", number))


def recordings_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Recording of every audio message, in order; empty if it names none."""
    return [message.get("content", "") for message in messages if message["message_type"] == "audio"]


def parts_of(messages: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Part of its recording that every audio message is, in order."""
    return [Part.of(message) for message in messages if message["message_type"] == "audio"]


def _problem_of_line(value: Any, escapes: bool) -> str | None:
    if not isinstance(value, dict):
        return "is not a JSON object; a line holds one"
    for key, kind in (("task_type", str), ("conversation", list)):
        if not isinstance(value.get(key), kind):
            found = "is missing" if key not in value else f"is {value[key]!r}"
            return f"key {key!r} {found}; it must be a {'list' if kind is list else 'string'}"
    for key in ("id", "group"):
        if not isinstance(value.get(key, ""), (str, int)):
            return f"key {key!r} is {value[key]!r}; it must be a string"
    columns = value.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(cell, str) for cell in columns.values()):
        return f"key 'columns' is {columns!r}; it must be an object whose values are strings"
    if not value["conversation"]:
        return "'conversation' is empty; it needs at least one message"
    if value["task_type"] != TASK:
        return f"task_type is {value['task_type']!r}; it must be {TASK!r}, which asks for a text answer"
    lone = _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)) if escapes else None
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
    if problem := problem_of_part(message):
        return problem
    if "audio_tokens" not in message and tokens is None:
        return None if message.get("content") else "content is missing; an audio message needs its recording's path"
    return _problem_of_tokens(message.get("audio_tokens"), tokens)


def _problem_of_tokens(codes: Any, tokens: TokenRange | None) -> str | None:
    if codes is None:
        return "audio_tokens are missing; training and decoding need a pretokenized manifest"
    if not isinstance(codes, list) or not codes:
        return f"audio_tokens are {codes!r}; they must be a non-empty list of integers"
    if set(map(type, codes)) == {int} and (tokens is None or tokens.first <= min(codes) <= max(codes) < tokens.end):
        return None
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
    """Messages of the final assistant turn; none if the conversation ends with the user."""
    return messages[len(before_last_answer(messages)) :]


def reference_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Text of the last assistant turn."""
    return "".join(m["content"] for m in last_answer(messages) if m["message_type"] == "text")


def with_prompt(messages: Sequence[dict[str, Any]], prompt: str) -> tuple[dict[str, Any], ...]:
    """The messages with the text prompt of every user turn replaced, if it has one."""
    return tuple(
        {**m, "content": prompt} if m["role"] == "user" and m["message_type"] == "text" else m for m in messages
    )


def with_last_prompt(
    messages: Sequence[dict[str, Any]], change: Callable[[str], str]
) -> tuple[dict[str, Any], ...] | None:
    """The messages with the user's last text before the last answer changed; None: there is no such text."""
    asked = before_last_answer(messages)
    prompts = [n for n, m in enumerate(asked) if (m["role"], m["message_type"]) == ("user", "text")]
    if not prompts:
        return None
    return tuple({**m, "content": change(m["content"])} if n == prompts[-1] else m for n, m in enumerate(messages))


# Layout in two aligned id streams, as published.

BLANK = "<|im_kimia_text_blank|>"
TEXT_EOS = "<|im_kimia_text_eos|>"
MESSAGE_END = "<|im_msg_end|>"
MEDIA_BEGIN, MEDIA_END = "<|im_media_begin|>", "<|im_media_end|>"
# After a turn that ends with audio: answer in text, or in text and audio.
ANSWER_TEXT, ANSWER_BOTH = "<|im_kimia_speech_ct_id|>", "<|im_kimia_speech_ctd_id|>"
ROLE_START = {"user": "<|im_kimia_user_msg_start|>", "assistant": "<|im_kimia_assistant_msg_start|>"}


class Tokenizer(Protocol):
    """Text tokenizer as required by the layout."""

    special_tokens: dict[str, int]

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]: ...


@dataclass
class Layout:
    """Two streams of equal length with their masks; labels are unshifted (position p predicts itself).

    audio_loss_mask: assistant audio codes and their media-end. text_loss_mask: assistant text and its text-eos.
    """

    audio_ids: list[int] = field(default_factory=list)
    text_ids: list[int] = field(default_factory=list)
    is_continuous_mask: list[bool] = field(default_factory=list)
    audio_loss_mask: list[bool] = field(default_factory=list)
    text_loss_mask: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.audio_ids)

    def extend(
        self,
        audio_ids: Sequence[int],
        text_ids: Sequence[int],
        *,
        codes: bool = False,
        audio_loss: bool = False,
        text_loss: bool = False,
    ) -> None:
        self.audio_ids.extend(audio_ids)
        self.text_ids.extend(text_ids)
        self.is_continuous_mask.extend([codes] * len(audio_ids))
        self.audio_loss_mask.extend([audio_loss] * len(audio_ids))
        self.text_loss_mask.extend([text_loss] * len(audio_ids))


def layout_conversation(
    conversation: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    task_type: str,
    for_generation: bool = False,
) -> Layout:
    """Lays a conversation out in two streams (published prompt manager and dataset).

    Args:
        conversation: checked messages with ``role``, ``message_type`` ("text" or "audio") and ``content`` or
            ``audio_tokens`` (codes including the model's offset).
        task_type: "understanding" for a text answer, anything else for text and audio.
        for_generation: lay out only what precedes the last assistant turn, and open that turn.
    """
    special, blank = tokenizer.special_tokens, tokenizer.special_tokens[BLANK]
    if for_generation:
        conversation = before_last_answer(conversation)
    layout = Layout()

    def mark(token: str, audio_loss: bool = False) -> None:
        layout.extend([special[token]], [blank], audio_loss=audio_loss)

    for role, turn in groupby(conversation, key=itemgetter("role")):
        messages, answer = list(turn), role == "assistant"
        mark(ROLE_START[role])
        for message in messages:
            if message["message_type"] == "text":
                ids = [*tokenizer.encode(message["content"]), *([special[TEXT_EOS]] if answer else [])]
                layout.extend([blank] * len(ids), ids, text_loss=answer)
            else:
                codes = message["audio_tokens"]
                mark(MEDIA_BEGIN)
                layout.extend(codes, [blank] * len(codes), codes=True, audio_loss=answer)
                mark(MEDIA_END, audio_loss=answer)
        if messages[-1]["message_type"] == "audio":
            mark(ANSWER_TEXT if task_type == TASK else ANSWER_BOTH)
        mark(MESSAGE_END)
    if for_generation:
        mark(ROLE_START["assistant"])
    return layout


def layout_lengths(
    conversation: Sequence[Mapping[str, Any]], num_tokens: Callable[[str], int], for_generation: bool = False
) -> tuple[int, int]:
    """Positions and supervised text positions of ``layout_conversation``. num_tokens: number of tokens of a text."""
    if for_generation:
        conversation = before_last_answer(conversation)
    positions, supervised = int(for_generation), 0
    for role, turn in groupby(conversation, key=itemgetter("role")):
        messages, answer = list(turn), role == "assistant"
        positions += 2 + (messages[-1]["message_type"] == "audio")  # start and end, and the request to answer
        for message in messages:
            if message["message_type"] == "audio":
                positions += len(message["audio_tokens"]) + 2
            else:
                tokens = num_tokens(message["content"]) + answer  # an answer ends with text-eos
                positions += tokens
                supervised += tokens * answer
    return positions, supervised


def before_last_answer(conversation: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The conversation without its final assistant turn, if any."""
    end = len(conversation)
    while end and conversation[end - 1]["role"] == "assistant":
        end -= 1
    return conversation[:end]
