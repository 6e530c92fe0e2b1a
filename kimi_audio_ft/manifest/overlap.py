"""Recordings of one set that are in another (trained on and evaluated, or tested), by contents, and common groups."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.manifest.index import over_cores, runs_of
from kimi_audio_ft.manifest.manifest import Manifest, remembered
from kimi_audio_ft.manifest.part import Part
from kimi_audio_ft.manifest.several import Conversations
from kimi_audio_ft.store.cache import Arrays

_SHOWN = 3  # pairs of lines, in the error


class Place(NamedTuple):
    """An audio message: manifest and index (``row``) of its conversation, recording, and what is heard of it."""

    manifest: Manifest
    row: int
    recording: str
    part: Part

    def __str__(self) -> str:
        return f"{self.manifest.source.path}:{self.manifest.line_of(self.row)}"


@dataclass(frozen=True)
class Overlap:
    """What training and evaluation have in common; or either of them and a test set.

    pairs: lines of training and of evaluation, one for every utterance that is evaluated. evaluated: all utterances.
    groups: names of recordings (``group``) that segments of both were cut from, ordered.
    """

    pairs: list[tuple[Place, Place]]
    evaluated: int
    groups: list[str]

    def refuse(self, does: str = "trains on", done: str = "trained on", to: str = "evaluated") -> None:
        """Raise a DataError if a recording is in both; in words, what is done with the one set and with the other."""
        if not self.pairs:
            return
        mine, theirs = self.pairs[0]
        named = f" ({mine.part.name_in(mine.recording)})" if mine.recording else ""
        problem = f"{does} a recording that is {to}, {theirs}{named}"
        if len(self.pairs) > 1:
            more = "; ".join(f"{one} and {other}" for one, other in self.pairs[1:_SHOWN])
            problem += f". {len(self.pairs)} of {self.evaluated} {to} utterances are {done}, also {more}"
        by_heart = " to learn them by heart" if to == "evaluated" else ", and the result says nothing of unseen data"
        remedy = f"Take them out of one of the manifests, or set data.allow_overlap=true{by_heart}"
        raise DataError(mine.manifest.source.path, problem, remedy, mine.manifest.line_of(mine.row))

    @property
    def facts(self) -> dict[str, Any]:
        """What scores.json has of it: nothing where there is none."""
        utterances = len(self.pairs)
        return {"overlap": {"utterances": utterances, "groups": self.groups}} if self.groups or utterances else {}


def overlap_of(trained: Conversations, evaluated: Conversations) -> Overlap:
    """What two sets have in common: recordings by their files' digests, those without a file by their codes."""
    mine, theirs = _keys(trained), _keys(evaluated)
    common = np.intersect1d(mine, theirs)
    pairs = []
    if len(common):
        by_key: dict[bytes, list[Place]] = defaultdict(list)
        for key, place in _places(trained, mine, common):
            by_key[key].append(place)
        found: set[tuple[int, int]] = set()
        for key, place in _places(evaluated, theirs, common):
            first = next((one for one in by_key[key] if one.part.overlaps(place.part)), None)
            if first is not None and (id(place.manifest), place.row) not in found:
                found.add((id(place.manifest), place.row))
                pairs.append((first, place))
    groups = _groups(trained) & _groups(evaluated)
    return Overlap(pairs, len(evaluated), sorted(groups))


def _keys(conversations: Conversations) -> np.ndarray:
    """``[n]`` (S32): what identifies the recording of every audio message, part after part."""
    return np.concatenate([_keys_of(part) for part in conversations.parts])


def _keys_of(manifest: Manifest) -> np.ndarray:
    keys = manifest.recordings.of_files()[manifest.audio_messages()]
    absent = ~keys.any(axis=1)
    if absent.any():
        keys = keys.copy()
        keys[absent] = _code_digests(manifest)[absent]
    return np.ascontiguousarray(keys).view("S32").reshape(-1)


def _code_digests(manifest: Manifest) -> np.ndarray:
    """``[n, 32]`` (uint8): sha256 of the codes of every audio message."""

    def digests(indices: range) -> bytes:
        lines = (manifest.line(index)[0]["conversation"] for index in indices)
        codes = (message.get("audio_tokens") for line in lines for message in line if _is_audio(message))
        return b"".join(hashlib.sha256(repr(some).encode()).digest() for some in codes)

    def make() -> Arrays:
        joined = b"".join(over_cores(digests, runs_of(len(manifest))))
        return {"codes": np.frombuffer(joined, np.uint8).reshape(-1, 32)}

    return remembered(manifest, {"kind": "codes"}, make)["codes"]


def _places(conversations: Conversations, keys: np.ndarray, common: np.ndarray) -> list[tuple[bytes, Place]]:
    """Audio messages whose keys are among the common ones, each with its key."""
    found, first = [], 0
    for part in conversations.parts:
        audios, columns = part.audio_messages(), part.columns
        own = keys[first : first + len(audios)]
        first += len(audios)
        rows = np.repeat(np.arange(len(part)), columns.audios[part.rows])
        for number in np.flatnonzero(np.isin(own, common)).tolist():
            audio = int(audios[number])
            found.append((own[number], Place(part, int(rows[number]), columns.name(audio), columns.part(audio))))
    return found


def _is_audio(message: Mapping[str, Any]) -> bool:
    return message["message_type"] == "audio"


def _groups(conversations: Conversations) -> set[str]:
    return set[str]().union(*map(_groups_of, conversations.parts))


def _groups_of(manifest: Manifest) -> set[str]:
    """Groups of the conversations; without those that are only the conversation's own id, as prepare writes them."""

    def groups(indices: range) -> set[str]:
        lines = (manifest.line(index) for index in indices)
        return {str(value["group"]) for value, name in lines if value.get("group") and str(value["group"]) != name}

    def make() -> Arrays:
        names = set[str]().union(*over_cores(groups, runs_of(len(manifest))))
        return {"groups": np.array(sorted(names), np.str_)}

    return set(remembered(manifest, {"kind": "groups"}, make)["groups"].tolist())
