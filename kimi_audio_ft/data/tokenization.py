"""Pretokenized manifests: every audio message gets its codes; features go into the store.

One process, or several that share the recordings (``torchrun``, or ``devices`` here): the first looks what is missing,
hands every process its share, waits for all, and writes the manifests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kimi_audio_ft.base_model import Base
from kimi_audio_ft.data.encoding import digests_of, encode_wanted
from kimi_audio_ft.data.features import FeatureStore
from kimi_audio_ft.data.manifest import TokenRange, numbered_lines, read_manifest, require_recordings
from kimi_audio_ft.data.team import Team, joined_team, started_by_launcher
from kimi_audio_ft.data.wanted import Wanted, describe_need, find_wanted
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.schema import TokenizeConfig
from kimi_audio_ft.store import write_jsonl
from kimi_audio_ft.threads import limit_threads
from kimi_audio_ft.workers import Send, run_workers


@dataclass(frozen=True)
class Source:
    """A manifest whose lines were checked, and its recordings: one entry per audio message, in order.

    digests: sha256 of their bytes. version: size and time of change of the manifest.
    """

    manifest: Path
    audio_root: Path
    conversations: int
    paths: list[str]
    digests: np.ndarray
    version: tuple[int, int]


def tokenize(config: TokenizeConfig) -> list[Path]:
    """Write a pretokenized copy of every manifest; nothing that the store holds is computed again."""
    gpus = torch.cuda.device_count()
    if started_by_launcher():
        if config.devices != "auto":
            rule = f"{os.environ['WORLD_SIZE']} processes were started already (WORLD_SIZE)"
            raise ConfigError("devices", config.devices, rule, "Leave it out, or start without torchrun")
        _take_part(config)
        return _outputs(config)
    count = max(1, gpus) if config.devices == "auto" else int(config.devices)
    if gpus and count > gpus:
        raise ConfigError("devices", config.devices, f"there are {gpus} GPUs, and each process needs one")
    if count > 1:
        run_workers(_work, (config,), count)
    else:
        _take_part(config)
    return _outputs(config)


def _work(rank: int, send: Send, config: TokenizeConfig) -> None:
    _take_part(config)


def _take_part(config: TokenizeConfig) -> None:
    """All of the work, or this process's part of it."""
    with joined_team() as team:
        _claim_hardware(config, team)
        base = Base(config.model, "cached" if config.features else "none")
        encoders = base.encoders(features=config.features)
        store, sources, shares = encoders.store(), [], None
        if team.rank == 0:
            sources = [read_source(Path(manifest), config.audio_root) for manifest in config.manifests]
            shares = _plan(store, sources, team.size)
        share = _own_share(team, shares)
        took = 0.0
        if share:
            bar = config.progress and team.rank == 0
            took = encode_wanted(encoders, store, share, config.batch_size, config.readers, progress=bar)
        reports = team.gather([len(share), share.seconds, took])
        if team.rank == 0:
            _print_speed(reports)
            store.refresh()
            for source, place in zip(sources, _outputs(config), strict=True):
                _write(source, place, store, base.tokens)


def _claim_hardware(config: TokenizeConfig, team: Team) -> None:
    if team.size == 1:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", team.rank)) % torch.cuda.device_count())
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", team.size))
    limit_threads(config.threads or max(1, torch.get_num_threads() // beside))


def _outputs(config: TokenizeConfig) -> list[Path]:
    return [output_path(Path(manifest), config.out) for manifest in config.manifests]


def output_path(manifest: Path, out: str | None) -> Path:
    """``NAME.tokens.jsonl`` in ``out``, or beside the manifest."""
    return (Path(out) if out else manifest.parent) / f"{manifest.stem}.tokens.jsonl"


def read_source(manifest: Path, audio_root: str | None = None) -> Source:
    """Check a manifest line by line and look its recordings up.

    Raises:
        DataError: a line breaks a rule, or a recording is not there.
    """
    version, paths, count = _version(manifest), [], 0
    for conversation in read_manifest(manifest, audio_root):
        require_recordings([conversation], manifest)
        paths += [str(path) for path in conversation.audio_paths]
        count += 1
    root = Path(audio_root) if audio_root else manifest.parent
    return Source(manifest, root, count, paths, digests_of(paths), version)


def _version(manifest: Path) -> tuple[int, int]:
    if not manifest.is_file():
        return 0, 0  # whoever reads it says so
    status = manifest.stat()
    return status.st_size, status.st_mtime_ns


def _plan(store: FeatureStore, sources: Sequence[Source], count: int) -> list[Wanted]:
    """The shares of ``count`` processes, after a line about what is to come and a look at the disk."""
    paths = [path for source in sources for path in source.paths]
    wanted = find_wanted(store, paths, np.concatenate([source.digests for source in sources]))
    if wanted:
        print(f"to encode: {describe_need(store, wanted)}", flush=True)
    return wanted.shares(count)


def _own_share(team: Team, shares: list[Wanted] | None) -> Wanted:
    if team.size == 1:
        assert shares is not None
        return shares[0]
    return Wanted.from_bytes(team.scatter([share.to_bytes() for share in shares] if shares else None))


def _print_speed(reports: Sequence[Sequence[float]]) -> None:
    """Audio over the time of the slowest process; loading the encoders is left out, reading and storing are not."""
    counts, seconds, took = (list(column) for column in zip(*reports, strict=True))
    if not sum(counts):
        print("to encode: nothing, the store holds every recording")
        return
    rate = sum(seconds) / max(took)
    text = f"encoded {sum(counts):.0f} recordings, {sum(seconds) / 3600:.3g} hours of audio, in {max(took):.3g} s"
    text += f": {rate / 3600:.3g} hours of audio per second ({rate:.3g} times real time; loading the encoders apart)"
    if len(reports) > 1:
        each = (f"{audio / spent / 3600:.3g}" if spent else "idle" for audio, spent in zip(seconds, took, strict=True))
        text += f"; of {len(reports)} processes: {', '.join(each)}"
    print(text)


def _write(source: Source, place: Path, store: FeatureStore, tokens: TokenRange) -> None:
    write_jsonl(place, pretokenized(source, store, tokens, place.parent))
    codes = int(store.rows_of(digest.decode() for digest in source.digests).sum())
    print(f"{place}: {source.conversations} conversations, {codes} codes ({codes / 12.5 / 60:.1f} min of audio)")


def pretokenized(source: Source, store: FeatureStore, tokens: TokenRange, place: Path) -> Iterator[dict[str, Any]]:
    """The manifest's own lines with codes; relative audio paths stay right from where the new file lies.

    Raises:
        DataError: the manifest has changed since it was read, or a code is none of the model's.
    """
    if _version(source.manifest) != source.version:
        raise DataError(source.manifest, "has changed while its recordings were encoded", "Run the same command again")
    moved = place.resolve() != source.manifest.parent.resolve()
    digests = iter(source.digests.tolist())
    for number, text in numbered_lines(source.manifest):
        row = json.loads(text)
        for message in row["conversation"]:
            if message["message_type"] == "audio":
                codes = [code + tokens.first for code in store.codes(next(digests).decode())]
                if max(codes) >= tokens.end:
                    problem = f"{message['content']} has code {max(codes) - tokens.first}, beyond the model's"
                    remedy = "Check model.path and model.speech_tokenizer: they do not belong together"
                    raise DataError(source.manifest, problem, remedy, number)
                message["audio_tokens"] = codes
                if moved:
                    message["content"] = str((source.audio_root / message["content"]).absolute())
        yield {"id": str(row.get("id", number)), **row}
