"""Manifests: JSONL, one conversation per line, in the published Kimi-Audio format.

Every line is validated once, with file and line in errors; conversations are then read on demand, at about 100 bytes
of memory each.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.manifest.conversation import Conversation, TokenRange, id_of, parse_line, reference_of
from kimi_audio_ft.manifest.hotwords import Hotwords
from kimi_audio_ft.manifest.index import (
    Columns,
    Recordings,
    Source,
    hash_of,
    index_of,
    over_cores,
    runs_of,
)
from kimi_audio_ft.store.cache import Arrays, remember
from kimi_audio_ft.store.digests import State, file_digest, state_of
from kimi_audio_ft.store.signature import canonical

if TYPE_CHECKING:
    from kimi_audio_ft.model.text_tokenizer import TextTokenizer


class Manifest(Sequence[Conversation]):
    """Conversations of a validated manifest, or of some of its lines; read on demand, also in other processes.

    rows: indices of these conversations in the file. Reading raises DataError if the file has changed since.
    """

    def __init__(self, source: Source, columns: Columns, state: State, tokenizer: str | None, rows: np.ndarray) -> None:
        self.source, self.columns, self.rows = source, columns, rows
        self._state, self._tokenizer = state, tokenizer
        self._descriptor: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Conversation | Manifest:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        source = self.source
        text, number = self.text_of(index)
        return parse_line(text, source.path, number, source.audio_root, source.tokens, source.asked)

    def select(self, indices: np.ndarray) -> Manifest:
        return Manifest(self.source, self.columns, self._state, self._tokenizer, self.rows[indices])

    def with_hotwords(self, hotwords: Hotwords) -> Manifest:
        """The conversations with other hot words in their prompts, measured anew when their lengths are asked for."""
        return Manifest(replace(self.source, hotwords=hotwords), self.columns, self._state, None, self.rows)

    def __getstate__(self) -> dict[str, Any]:
        """State for other processes, which open the file themselves."""
        return {**self.__dict__, "_descriptor": None}

    def lengths(self, tokenizer: TextTokenizer, for_generation: bool = False) -> np.ndarray:
        """``[n, 2]``: positions and supervised text positions of every conversation's layout."""
        columns = self.columns
        if self._tokenizer != tokenizer.identity:
            columns, state = index_of(self.source, tokenizer)
            self.source.require_unchanged(self._state, state)
        return columns.lengths[self.rows, int(for_generation)]

    @cached_property
    def recordings(self) -> Recordings:
        """Recordings of all audio messages of the file."""
        return Recordings(self.columns, self.source.audio_root)

    def digests_of(self, index: int, digests: np.ndarray) -> list[str]:
        """sha256 of every recording that a conversation names, empty if missing; ``digests`` as of ``recordings``."""
        row, columns = self.rows[index], self.columns
        audios = range(columns.audio_start[row], columns.audio_start[row + 1])
        named = [digests[audio].tobytes() for audio in audios if columns.name_sizes[audio]]
        return [digest.hex() if any(digest) else "" for digest in named]

    def num_codes(self) -> np.ndarray:
        """``[n]``: number of audio codes per conversation, over all its audio messages."""
        codes = np.concatenate([[0], np.cumsum(self.columns.codes, dtype=np.int64)])
        return np.diff(codes[self.columns.audio_start])[self.rows]

    def audio_messages(self) -> np.ndarray:
        """Indices (in the file) of these conversations' audio messages."""
        return np.flatnonzero(np.isin(self._owner, self.rows))

    def first_with(self, bad: np.ndarray) -> tuple[Conversation, int, int] | None:
        """First conversation with a bad audio message, or None; ``bad`` is a mask over the audio messages of the file.

        With it come the index of that audio message in the file, and in the conversation.
        """
        rows = np.zeros(len(self.columns), bool)
        rows[self._owner[bad]] = True
        found = np.flatnonzero(rows[self.rows])
        if not len(found):
            return None
        row = self.rows[found[0]]
        audio = int(np.flatnonzero(bad & (self._owner == row))[0])
        return self[int(found[0])], audio, audio - int(self.columns.audio_start[row])

    @property
    def _owner(self) -> np.ndarray:
        """Row of every audio message of the file."""
        return np.repeat(np.arange(len(self.columns)), self.columns.audios)

    def line_of(self, index: int) -> int:
        return int(self.columns.line[self.rows[index]])

    def require_unchanged(self) -> None:
        """Raises DataError if the file has changed since it was validated."""
        self.source.require_unchanged(self._state, self.source.state())

    def line(self, index: int) -> tuple[dict[str, Any], str]:
        """A conversation's line as JSON, and its id."""
        text, number = self.text_of(index)
        value = json.loads(text)
        return value, id_of(value, number)

    def text_of(self, index: int) -> tuple[str, int]:
        row = self.rows[index]
        number = int(self.columns.line[row])
        raw = os.pread(self._opened(), int(self.columns.size[row]), int(self.columns.offset[row]))
        return self.source.decoded(raw, number), number

    def _opened(self) -> int:
        """Descriptor of the unchanged file. Lines are read by offset, because forks share the file position.

        A file whose name another one has taken is still there to be read, and nobody can open it to change it.
        """
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.source.file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DataError(self.source.path, f"cannot be read any more ({error.strerror})") from None
            weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if status.st_nlink:
            self.source.require_unchanged(self._state, state_of(status))
        return self._descriptor


def read_manifest(
    path: str | Path,
    audio_root: str | None = None,
    prompt: str | None = None,
    tokens: TokenRange | None = None,
    tokenizer: TextTokenizer | None = None,
    hotwords: Hotwords | None = None,
) -> Manifest:
    """Opens and validates a manifest.

    Args:
        audio_root: base of relative audio paths; None is the manifest's own folder.
        prompt: replaces the user's own text messages.
        tokens: also require ``audio_tokens`` in this range on every audio message (a *pretokenized* manifest).
        tokenizer: also measure the lines in this pass; otherwise ``Manifest.lengths`` needs a second one.
        hotwords: put behind the user's text messages.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line breaks a rule.
    """
    path = Path(path)
    source = Source(path, Path(audio_root or path.parent).absolute(), prompt or None, tokens, hotwords)
    columns, state = index_of(source, tokenizer)
    return Manifest(source, columns, state, tokenizer.identity if tokenizer else None, np.arange(len(columns)))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and text of the non-blank lines of a UTF-8 file; only a line feed ends a line."""
    source = Source(path, path.parent)
    source.state()
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            text = source.decoded(raw, number)
            if text.strip():
                yield number, text


def require_references(manifest: Manifest) -> None:
    """Raises DataError unless every conversation ends with a text answer and has no audio answer.

    An audio answer would need the audio branch and its loss, which transcription does not use; training on its text
    alone would silently ignore part of the manifest.
    """
    columns, rows = manifest.columns, manifest.rows
    bad = np.flatnonzero(~columns.answered[rows] | columns.spoken[rows])
    if not len(bad):
        return
    line = manifest.line_of(bad[0])
    if not columns.answered[rows[bad[0]]]:
        problem = "does not end with an assistant text message, so there is nothing to learn or to compare with"
        raise DataError(manifest.source.path, problem, "Add the transcript as an assistant text message", line)
    problem = "has an assistant message of type audio; answers are learned and scored as text only"
    raise DataError(manifest.source.path, problem, "Leave the conversation out, or give its text instead", line)


def require_something_to_score(manifest: Manifest) -> None:
    """Raises DataError if no reference has a letter or digit: error rates are parts of the references' characters."""
    if not any(character.isalnum() for conversation in manifest for character in conversation.reference):
        problem = "no reference has a letter or a digit, so there is nothing to score"
        remedy = "Write the transcripts as the assistant's text messages, or name another manifest"
        raise DataError(manifest.source.path, problem, remedy)


def require_recordings(manifest: Manifest) -> None:
    """Raises DataError unless the recording of every audio message exists; features are computed from them."""
    absent = manifest.recordings.states()[:, 0] < 0
    found = manifest.first_with(absent)
    if found is None:
        return
    conversation, _, position = found
    messages = sum(m["message_type"] == "audio" for m in conversation.messages)
    if messages != len(conversation.audio_paths):
        problem = f"{messages} audio messages but {len(conversation.audio_paths)} recordings"
        remedy = "Give every audio message the path of its recording as content, or set data.features=none"
        raise DataError(manifest.source.path, problem, remedy, conversation.line)
    recording = conversation.audio_paths[position]
    remedy = "Check the path and data.audio_root, or set data.features=none"
    raise DataError(manifest.source.path, f"there is no recording {recording}", remedy, conversation.line)


def require_positions(manifest: Manifest, tokenizer: TextTokenizer, most: int) -> None:
    """Raises DataError if a conversation, with its answer, is longer than the ``most`` positions of the model."""
    positions = manifest.lengths(tokenizer)[:, 0]
    long = np.flatnonzero(positions > most)
    if len(long):
        problem = f"takes {positions[long[0]]} positions, and the model has {most} ({len(long)} such)"
        remedy = "Cut its recording into segments; 10 minutes take 7500 positions"
        raise DataError(manifest.source.path, problem, remedy, manifest.line_of(int(long[0])))


# Content digests, as seen by training and decoding, and by scoring.


def manifest_identity(manifest: Manifest) -> str:
    """Content digest of a manifest: ids, messages (with the prompt it was read with) and bytes of the recordings.

    Independent of file locations. Missing recordings (of a pretokenized manifest) are represented by their codes.
    Cached while neither the file nor a recording changes.
    """
    source = manifest.source

    def facts(value: dict[str, Any], name: str, recordings: list[str]) -> list[Any]:
        messages = source.asked(value, name)
        said = [m if m["message_type"] == "text" else {k: v for k, v in m.items() if k != "content"} for m in messages]
        return [name, value["task_type"], said, recordings]

    return _identity(manifest, {"kind": "identity", **source.prompts}, facts)


def reference_identity(manifest: Manifest) -> str:
    """Content digest of an evaluation set: ids, references and bytes of the recordings (codes where one is missing).

    Independent of the prompt and of the model's tokens, so that equal digests make error rates comparable.
    """

    def facts(value: dict[str, Any], name: str, recordings: list[str]) -> list[Any]:
        audio: list[Any] = recordings
        if not all(recordings) or not recordings:
            audio = recordings + [m.get("audio_tokens") for m in value["conversation"] if m["message_type"] == "audio"]
        return [name, reference_of(value["conversation"]), audio]

    return _identity(manifest, {"kind": "references"}, facts)


def _identity(
    manifest: Manifest, kind: dict[str, Any], facts_of: Callable[[dict[str, Any], str, list[str]], list[Any]]
) -> str:
    """Digest of a list of every conversation's facts, from its line, its id and the digests of its recordings."""
    digests = manifest.recordings.digests()

    def part(indices: range) -> bytes:
        facts = [facts_of(*manifest.line(index), manifest.digests_of(index, digests)) for index in indices]
        return canonical(facts)[1:-1].encode()

    def make() -> Arrays:
        digest, before = hashlib.sha256(b"["), b""
        for facts in over_cores(part, runs_of(len(manifest))):
            digest.update(before + facts)
            before = b","
        digest.update(b"]")
        return {"identity": np.array(digest.hexdigest()[:16])}

    return str(remembered(manifest, kind | {"recordings": hash_of(digests)}, make)["identity"])


def remembered(manifest: Manifest, facts: dict[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """Result of ``make``, cached by these facts and the conversations' lines."""
    manifest.require_unchanged()
    ours = {"file": file_digest(manifest.source.file), "rows": hash_of(manifest.rows)}
    return remember("manifests", facts | ours, make)


def drawing_keys(manifest: Manifest, seed: int) -> np.ndarray:
    """``[n]``: 16 bytes drawn for each conversation's recording (``group``, or id if it has none), then 16 for its id.

    The conversations that have the smallest keys are a random subset of whole recordings.
    """

    def draw(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:16]

    def keys(indices: range) -> bytes:
        lines = [manifest.line(index) for index in indices]
        return b"".join(draw(str(value.get("group") or name)) + draw(name) for value, name in lines)

    def make() -> Arrays:
        return {"keys": np.frombuffer(b"".join(over_cores(keys, runs_of(len(manifest)))), "S32")}

    return remembered(manifest, {"kind": "keys", "seed": seed}, make)["keys"]
