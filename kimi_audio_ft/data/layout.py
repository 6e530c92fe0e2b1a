"""A conversation as two aligned id streams, as published.

An ASR sample with prompt "ab", two codes and answer "x" (B = blank, eos = text_eos)::

    audio stream  user B B media_begin c1 c2 media_end ct msg_end assistant B  B   msg_end
    text stream   B    a b B           B  B  B         B  B       B         x  eos B
    text loss                                                               1  1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

BLANK = "<|im_kimia_text_blank|>"
TEXT_EOS = "<|im_kimia_text_eos|>"
MESSAGE_END = "<|im_msg_end|>"
MEDIA_BEGIN, MEDIA_END = "<|im_media_begin|>", "<|im_media_end|>"
# The turn's last message was audio: answer in text, or in text and audio.
ANSWER_TEXT, ANSWER_BOTH = "<|im_kimia_speech_ct_id|>", "<|im_kimia_speech_ctd_id|>"
ROLE_START = {"user": "<|im_kimia_user_msg_start|>", "assistant": "<|im_kimia_assistant_msg_start|>"}


class Tokenizer(Protocol):
    """What the layout needs of a text tokenizer."""

    special_tokens: dict[str, int]
    pad_id: int

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

    def append(
        self, audio_id: int, text_id: int, *, code: bool = False, audio_loss: bool = False, text_loss: bool = False
    ) -> None:
        self.audio_ids.append(audio_id)
        self.text_ids.append(text_id)
        self.is_continuous_mask.append(code)
        self.audio_loss_mask.append(audio_loss)
        self.text_loss_mask.append(text_loss)


def layout_conversation(
    conversation: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    task_type: str,
    for_generation: bool = False,
) -> Layout:
    """Lay a conversation out in two streams (published prompt manager and dataset).

    Args:
        conversation: messages with ``role``, ``message_type`` ("text" or "audio") and ``content`` or ``audio_tokens``
            (codes with the model's offset already added). Checked by ``data.manifest`` before.
        task_type: "understanding" asks for a text answer, anything else for text and audio.
        for_generation: lay out what precedes the last assistant turn, and open that turn.
    """
    special = tokenizer.special_tokens
    blank = special[BLANK]
    if for_generation:
        conversation = before_last_answer(conversation)
    layout = Layout()
    for index, message in enumerate(conversation):
        role = message["role"]
        previous = conversation[index - 1]["role"] if index else None
        following = conversation[index + 1]["role"] if index + 1 < len(conversation) else None
        ends_turn = following != role
        if role != previous:
            layout.append(special[ROLE_START[role]], blank)
        if message["message_type"] == "text":
            _append_text(layout, message["content"], tokenizer, blank, answer=role == "assistant")
        else:
            _append_audio(layout, message["audio_tokens"], special, blank, answer=role == "assistant")
            if ends_turn:
                layout.append(special[ANSWER_TEXT if task_type == "understanding" else ANSWER_BOTH], blank)
        if ends_turn:
            layout.append(special[MESSAGE_END], blank)
    if for_generation:
        layout.append(special[ROLE_START["assistant"]], blank)
    return layout


def layout_lengths(
    conversation: Sequence[Mapping[str, Any]], num_tokens: Callable[[str], int], for_generation: bool = False
) -> tuple[int, int]:
    """Positions, and supervised text positions, that ``layout_conversation`` would give; nothing is laid out.

    Args:
        num_tokens: number of tokens of a text.
    """
    if for_generation:
        conversation = before_last_answer(conversation)
    positions, supervised = int(for_generation), 0
    previous: tuple[str, str] | None = None
    for message in [*conversation, None]:
        current = (message["role"], message["message_type"]) if message else None
        if previous is not None and (current is None or current[0] != previous[0]):
            positions += 2 + (previous[1] == "audio")  # a turn's start, its end, and what asks for the answer
        previous = current
        if message is None:
            break
        if message["message_type"] == "audio":
            positions += len(message["audio_tokens"]) + 2
            continue
        answer = message["role"] == "assistant"
        tokens = num_tokens(message["content"]) + answer  # an answer ends with its end of text
        positions += tokens
        supervised += tokens if answer else 0
    return positions, supervised


def before_last_answer(conversation: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The conversation without the assistant turn that ends it, if one does."""
    end = len(conversation)
    while end and conversation[end - 1]["role"] == "assistant":
        end -= 1
    return conversation[:end]


def _append_text(layout: Layout, text: str, tokenizer: Tokenizer, blank: int, answer: bool) -> None:
    ids = list(tokenizer.encode(text, bos=False, eos=False))
    if answer:
        ids.append(tokenizer.special_tokens[TEXT_EOS])
    for token in ids:
        layout.append(blank, token, text_loss=answer)


def _append_audio(layout: Layout, codes: Sequence[int], special: Mapping[str, int], blank: int, answer: bool) -> None:
    layout.append(special[MEDIA_BEGIN], blank)
    for code in codes:
        layout.append(code, blank, code=True, audio_loss=answer)
    layout.append(special[MEDIA_END], blank, audio_loss=answer)
