"""What a manifest is, wherever its files lie: as training and decoding see it, and as scoring does."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kimi_audio_ft.data.chunks import over_cores, runs_of
from kimi_audio_ft.data.conversation import id_of, reference_of, with_prompt
from kimi_audio_ft.data.recordings import hash_of
from kimi_audio_ft.store.cache import Arrays, remembered
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.signature import canonical

if TYPE_CHECKING:
    from kimi_audio_ft.data.manifest import Manifest


def manifest_identity(manifest: Manifest) -> str:
    """Identity of what is said in a manifest: ids, messages (with the prompt that it was read with) and the bytes of
    the recordings, wherever they lie.

    Recordings that are not there (a pretokenized manifest may travel without them) count by their codes alone.
    Remembered in the store while neither the file nor a recording changes.
    """
    return _identity(manifest, {"kind": "identity", "prompt": manifest.source.prompt}, _Said)


def reference_identity(manifest: Manifest) -> str:
    """Identity of what error rates are counted on: ids, references and the bytes of the recordings.

    The same for every prompt, and for every model that a recording was tokenized for: what is scored on equal
    references of equal recordings may be compared. A recording that is not there counts by its codes.
    """
    return _identity(manifest, {"kind": "references"}, _Scored)


def _identity(manifest: Manifest, kind: Mapping[str, Any], what: type[_Facts]) -> str:
    manifest.require_unchanged()
    digests = manifest.recordings.digests()
    facts = {
        **kind,
        "file": file_digest(manifest.source.place),
        "rows": hash_of(manifest.rows),
        "recordings": hash_of(digests),
    }

    def make() -> Arrays:
        digest, before = hashlib.sha256(b"["), b""
        for part in over_cores(what(manifest, digests), runs_of(len(manifest))):
            digest.update(before + part)
            before = b","
        digest.update(b"]")
        return {"identity": np.array(digest.hexdigest()[:16])}

    return str(remembered(facts, make)["identity"])


class _Facts(ABC):
    """What conversations hold, as the text of JSON lists to be hashed."""

    def __init__(self, manifest: Manifest, digests: np.ndarray) -> None:
        self.manifest, self.digests = manifest, digests
        self.there: np.ndarray = np.any(digests, axis=1)

    def __call__(self, places: range) -> bytes:
        return ",".join(canonical(self._facts(place)) for place in places).encode()

    @abstractmethod
    def _facts(self, place: int) -> list[Any]:
        """Those of one conversation."""

    def _line(self, place: int) -> tuple[dict[str, Any], str]:
        """A conversation's line as JSON, and its id."""
        text, number = self.manifest.text_of(place)
        value = json.loads(text)
        return value, id_of(value, number)

    def _recordings(self, place: int) -> list[str]:
        """sha256 of each recording that a conversation names; empty for one that is not there."""
        audios = self.manifest.named_audios(place)
        return [self.digests[audio].tobytes().hex() if self.there[audio] else "" for audio in audios]


class _Said(_Facts):
    """Every message."""

    def _facts(self, place: int) -> list[Any]:
        value, name = self._line(place)
        prompt, messages = self.manifest.source.prompt, value["conversation"]
        asked = with_prompt(messages, prompt) if prompt else messages
        said = [m if m["message_type"] == "text" else {k: v for k, v in m.items() if k != "content"} for m in asked]
        return [name, value["task_type"], said, self._recordings(place)]


class _Scored(_Facts):
    """References and recordings."""

    def _facts(self, place: int) -> list[Any]:
        value, name = self._line(place)
        audio = self._recordings(place)
        if not audio or not all(audio):
            audio += [m.get("audio_tokens") for m in value["conversation"] if m["message_type"] == "audio"]
        return [name, reference_of(value["conversation"]), audio]
