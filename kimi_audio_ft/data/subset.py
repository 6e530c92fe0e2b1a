"""Part of a training set, for studies of how much data is needed: smaller parts lie inside larger ones.

Recordings are put in an order that only the seed decides, and taken whole, one after another; of the last one only as
many segments as are still wanted, so that the size is exact. That is how a small corpus comes about: fewer meetings,
not fewer minutes of each. Drawn segment by segment, a tenth of the segments would still hold nearly all speakers and
topics, and the learning curve would promise too little for more recordings. The order depends on the names of
recordings and conversations alone, not on their order in the file or on what else is in it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from kimi_audio_ft.data.chunks import over_cores, runs_of
from kimi_audio_ft.data.conversation import id_of
from kimi_audio_ft.data.recordings import hash_of
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.store.cache import Arrays, remembered
from kimi_audio_ft.store.digests import file_digest

if TYPE_CHECKING:
    from kimi_audio_ft.data.manifest import Manifest


def training_subset(manifest: Manifest, size: int | None, seed: int) -> Manifest:
    """The first ``size`` conversations in the seed's order, as they stand in the file; all of them for None.

    A conversation's recording is its ``group`` in the manifest, or itself where there is none.

    Raises:
        ConfigError: the manifest holds fewer.
    """
    if size is None:
        return manifest
    if size > len(manifest):
        rule = f"{manifest.source.path} holds {len(manifest)} conversations"
        raise ConfigError("data.train_subset", size, rule, "Use fewer, or null for all of them")
    manifest.require_unchanged()
    facts = {
        "kind": "subset",
        "file": file_digest(manifest.source.place),
        "rows": hash_of(manifest.rows),
        "seed": seed,
    }

    def make() -> Arrays:
        keys = b"".join(over_cores(_Keys(manifest, seed), runs_of(len(manifest))))
        return {"order": np.argsort(np.frombuffer(keys, "S32"), kind="stable")}

    return manifest.select(np.sort(remembered(facts, make)["order"][:size]))


class _Keys:
    """What conversations are put in order by: 16 bytes of their recording, then 16 of their own."""

    def __init__(self, manifest: Manifest, seed: int) -> None:
        self.manifest, self.seed = manifest, seed

    def __call__(self, places: range) -> bytes:
        return b"".join(map(self._key, places))

    def _key(self, place: int) -> bytes:
        text, number = self.manifest.text_of(place)
        value = json.loads(text)
        name = id_of(value, number)
        return self._draw(str(value.get("group") or name)) + self._draw(name)

    def _draw(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.seed}\n{name}".encode()).digest()[:16]
