"""Text tokenizer of Kimi-Audio: Qwen's byte-pair ranks and 421 special tokens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import tiktoken

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.files import read_json_object

RANKS_NAME = "tiktoken.model"
CONFIG_NAME = "tokenizer_config.json"
BOS, EOS = "[BOS]", "[EOS]"

# Pre-tokenisation of Qwen and Qwen2; the two tokenizers share their 151,643 ranks.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# As published: tiktoken's time and stack grow too fast on longer text and longer runs.
MOST_CHARS = 400_000
MOST_SAME_CLASS_CHARS = 25_000
_REMEDY = "Download it again"

# In published order, from the first id after the ranks; a number n means <|reserved_token_n|>.
_SPECIAL_ORDER: tuple[str | int, ...] = (
    *(BOS, EOS, "<|im_msg_end|>", "<|im_user_msg_start|>", "<|im_assistant_msg_start|>"),
    *range(4),
    "[EOT]",
    *range(4, 12),
    *("<|im_media_begin|>", 12, "<|im_media_end|>", 13, 14, "<|im_kimia_text_blank|>", "<|im_kimia_text_eos|>"),
    *(15, 16, "<|im_kimia_user_msg_start|>", "<|im_kimia_assistant_msg_start|>"),
    *(17, 18, 19, "<|im_kimia_speech_ct_id|>", "<|im_kimia_speech_ctd_id|>"),
    *range(20, 407),
)
SPECIAL_TOKENS: tuple[str, ...] = tuple(
    name if isinstance(name, str) else f"<|reserved_token_{name}|>" for name in _SPECIAL_ORDER
)
"""Names of the 421 published special tokens in the order of their ids."""


class TextTokenizer:
    """Text to ids and back.

    One deliberate difference from the published tokenizer: text is normalised to Unicode NFC before encoding (as by
    Qwen2's own tokenizer), so that a transcript's ids do not depend on how its file composes characters.
    """

    def __init__(self, ranks: dict[bytes, int], special_tokens: dict[str, int]) -> None:
        """From byte-pair ranks 0..n-1, and the ids from n upward of the special tokens by name."""
        self.special_tokens = dict(special_tokens)
        self._names = {number: name for name, number in special_tokens.items()}
        self._ranks, self._num_ranks = ranks, len(ranks)
        self._encoding = tiktoken.Encoding(
            "kimi_audio", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=self.special_tokens
        )
        self.pad_id = max(self._names)
        self.bos_id, self.eos_id = special_tokens[BOS], special_tokens[EOS]
        self.vocab_size = self.pad_id + 1

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TextTokenizer:
        """Load ``tiktoken.model`` and, if present, the special tokens of ``tokenizer_config.json``.

        Raises DataError, with the line, for a missing or malformed file.
        """
        folder = Path(folder)
        ranks = _read_ranks(folder / RANKS_NAME)
        config_path = folder / CONFIG_NAME
        return cls(ranks, _read_special_tokens(config_path, len(ranks)))

    @cached_property
    def identity(self) -> str:
        """Digest of everything that ``encode`` depends on."""
        digest = hashlib.sha256(f"NFC {PATTERN} {sorted(self.special_tokens.items())}".encode())
        for token, rank in sorted(self._ranks.items(), key=itemgetter(1)):
            digest.update(b"%d %d " % (rank, len(token)) + token)
        return digest.hexdigest()

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of NFC-normalised text. Text that looks like a special token is encoded as ordinary text."""
        text = unicodedata.normalize("NFC", text)
        ids = [self.bos_id] if bos else []
        for part in _bounded_parts(text):
            ids.extend(self._encoding.encode_ordinary(part))
        return [*ids, self.eos_id] if eos else ids

    def starts(self, ids: Sequence[int]) -> list[int]:
        """By id of a whole text, without special tokens, the index of the first character that it has bytes of."""
        return self._encoding.decode_with_offsets(ids)[1]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of ids; special tokens by name or skipped; invalid UTF-8 becomes U+FFFD.

        Raises UserError for an id that is neither text nor special, such as an audio code.
        """
        kept: list[int] = []
        for number in map(int, ids):
            if not 0 <= number < self._num_ranks and number not in self._names:
                raise UserError(
                    f"id {number} is not text: text ids are 0..{self._num_ranks - 1} and special ones end at "
                    f"{self.pad_id}. Drop audio codes before decoding"
                )
            if not (skip_special and number in self._names):
                kept.append(number)
        return self._encoding.decode(kept, errors="replace")


def special_token_files(special_tokens: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Contents of ``tokenizer_config.json`` and ``special_tokens_map.json`` for special tokens (name to id)."""
    names = sorted(special_tokens, key=special_tokens.__getitem__)
    roles = {"bos_token": BOS, "eos_token": EOS, "unk_token": names[-2], "pad_token": names[-1]}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    decoder: dict[str, Any] = {str(special_tokens[name]): {"content": name} | flags for name in names}
    config = {"added_tokens_decoder": decoder, "tokenizer_class": "TikTokenTokenizer"} | roles
    return {CONFIG_NAME: config, "special_tokens_map.json": roles}


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Set model.path to a checkpoint folder") from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            token_base64, rank = line.split()
            token = base64.b64decode(token_base64, validate=True)
            value = int(rank)
        except (ValueError, binascii.Error):
            raise DataError(path, f"{line[:60]!r} is not a base64 token and its rank", _REMEDY, number) from None
        if token in ranks:
            raise DataError(path, f"token {token!r} is there twice", _REMEDY, number)
        ranks[token] = value
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise DataError(path, f"the ranks are not 0..{len(ranks) - 1}, each once", _REMEDY)
    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        # tiktoken aborts instead of raising on text with an unknown byte.
        raise DataError(path, f"no token for {len(missing)} single bytes, such as {missing[0]}", _REMEDY)
    return ranks


def _read_special_tokens(path: Path, first_id: int) -> dict[str, int]:
    """Names and ids in ``added_tokens_decoder``; without one, the published 421 after the ranks."""
    published = {name: number for number, name in enumerate(SPECIAL_TOKENS, start=first_id)}
    if not path.exists():
        return published
    decoder = read_json_object(path, _REMEDY).get("added_tokens_decoder")
    if not decoder:
        return published
    try:
        special_tokens = {entry["content"]: int(number) for number, entry in decoder.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(path, "'added_tokens_decoder' must map ids to objects with 'content'", _REMEDY) from None
    if len(special_tokens) < len(decoder):
        raise DataError(path, "'added_tokens_decoder' gives one name to two ids", _REMEDY)
    if min(special_tokens.values()) < first_id:
        problem = f"special id {min(special_tokens.values())} is also a rank of {RANKS_NAME} (0..{first_id - 1})"
        raise DataError(path, problem, "Use the two files of one checkpoint")
    if absent := {BOS, EOS} - special_tokens.keys():
        raise DataError(path, f"'added_tokens_decoder' lacks {', '.join(sorted(absent))}", _REMEDY)
    return special_tokens


def _bounded_parts(text: str) -> Iterator[str]:
    """Split text so that no part, and no run of only white space or only other characters, is too long for tiktoken."""
    for start in range(0, len(text), MOST_CHARS):
        part = text[start : start + MOST_CHARS]
        part_start = 0
        if len(part) > MOST_SAME_CLASS_CHARS:
            position = 0
            for _, run in groupby(part, key=str.isspace):
                length = sum(1 for _ in run)
                for cut in range(position + MOST_SAME_CLASS_CHARS, position + length, MOST_SAME_CLASS_CHARS):
                    yield part[part_start:cut]
                    part_start = cut
                position += length
        yield part[part_start:]
