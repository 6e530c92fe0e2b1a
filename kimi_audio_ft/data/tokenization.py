"""Pretokenized manifests: every audio message gets its codes; features go into the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kimi_audio_ft.base_model import Base
from kimi_audio_ft.data.encoding import encode_missing
from kimi_audio_ft.data.features import FeatureStore
from kimi_audio_ft.data.manifest import Conversation, numbered_lines, read_manifest, require_recordings
from kimi_audio_ft.schema import TokenizeConfig
from kimi_audio_ft.signature import file_digest
from kimi_audio_ft.store import write_jsonl


def tokenize(config: TokenizeConfig) -> list[Path]:
    """Write a pretokenized copy of every manifest, unless it is there; nothing in the store is computed again."""
    base = Base(config.model, "cached" if config.features else "none")
    written = []
    for manifest in map(Path, config.manifests):
        conversations = read_manifest(manifest, config.audio_root)
        require_recordings(conversations, manifest)
        store = encode_missing(
            base.encoders(features=config.features),
            conversations,
            batch_size=config.batch_size,
            progress=config.progress,
        )
        place = output_path(manifest, config.out)
        rows = pretokenized(manifest, conversations, store, base.tokens.first, place.parent)
        write_jsonl(place, rows)
        tokens = sum(store.num_rows(file_digest(p)) for c in conversations for p in c.audio_paths)
        print(f"{place}: {len(conversations)} conversations, {tokens} codes ({tokens / 12.5 / 60:.1f} min of audio)")
        written.append(place)
    return written


def output_path(manifest: Path, out: str | None) -> Path:
    """``NAME.tokens.jsonl`` in ``out``, or beside the manifest."""
    return (Path(out) if out else manifest.parent) / f"{manifest.stem}.tokens.jsonl"


def pretokenized(
    manifest: Path, conversations: list[Conversation], store: FeatureStore, offset: int, place: Path
) -> list[dict[str, Any]]:
    """The manifest's own lines with codes; relative audio paths stay right from where the new file lies."""
    rows = []
    lines = dict(numbered_lines(manifest))
    for conversation in conversations:
        row = json.loads(lines[conversation.line])
        paths = iter(conversation.audio_paths)
        for message in row["conversation"]:
            if message["message_type"] == "audio":
                path = next(paths)
                message["audio_tokens"] = [code + offset for code in store.codes(file_digest(path))]
                if place.resolve() != manifest.parent.resolve():
                    message["content"] = str(path)
        rows.append({"id": conversation.id, **row})
    return rows
