"""Pretokenization: adds codes to every audio message of a manifest; features go into the store.

One or several processes (``torchrun`` or ``devices``): rank 0 finds missing recordings, scatters them over the ranks,
waits for all, and writes the manifests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from kimi_audio_ft.base import Base, module_names
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.data_file import DATA_FILE
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.features.encode import encode_wanted
from kimi_audio_ft.features.workload import Wanted, at_its_line, describe_need, find_wanted, recording_digests, rows_of
from kimi_audio_ft.files import write_jsonl, write_text
from kimi_audio_ft.manifest.audio import AudioError
from kimi_audio_ft.manifest.conversation import TokenRange, id_of
from kimi_audio_ft.manifest.manifest import Manifest, numbered_lines, read_manifest
from kimi_audio_ft.runtime.devices import device, limit_threads, num_processes, started_by_launcher
from kimi_audio_ft.runtime.team import Team, joined_team
from kimi_audio_ft.runtime.workers import Send, run_workers
from kimi_audio_ft.store.features import FeatureStore
from kimi_audio_ft.text import printable


def tokenize(config: TokenizeConfig, list_outputs: bool = True) -> list[Path]:
    """Writes a pretokenized copy of every manifest; recordings in the store are not encoded again.

    list_outputs: print what was written; the speed is printed in any case.
    """
    count = 1
    if started_by_launcher():
        if config.devices != "auto":
            rule = f"{os.environ['WORLD_SIZE']} processes were started already (WORLD_SIZE)"
            raise ConfigError("devices", config.devices, rule, "Leave it out, or start without torchrun")
    else:
        count = num_processes(config.devices)
    if count > 1:
        run_workers(_work, (config, list_outputs), count)
    else:
        _take_part(config, list_outputs)
    return _outputs(config)


def _work(rank: int, send: Send, config: TokenizeConfig, list_outputs: bool) -> None:
    _take_part(config, list_outputs)


def _take_part(config: TokenizeConfig, list_outputs: bool) -> None:
    with joined_team() as team:
        _claim_hardware(config, team)
        base = Base(config.model, "cached" if config.features else "none")
        encoders = base.encoders(features=config.features)
        store, manifests, shares = encoders.store(), [], None
        if team.rank == 0:
            manifests = [read_manifest(path, config.audio_root) for path in config.manifests]
            shares = _plan(store, manifests, team.size)
        share: Wanted = team.scatter(shares)
        took = 0.0
        if share:
            bar = config.progress and team.rank == 0
            try:
                took = encode_wanted(encoders, store, share, config.batch_size, config.readers, progress=bar)
            except AudioError as error:
                named = [read_manifest(path, config.audio_root) for path in config.manifests]  # also on other ranks
                raise at_its_line(named, error) from None
        reports = team.gather([len(share), share.seconds, took])
        if team.rank == 0:
            _print_speed(reports)
            store.refresh()
            for manifest, path in zip(manifests, _outputs(config), strict=True):
                write_jsonl(path, pretokenized(manifest, store, base.tokens, path.parent))
                if list_outputs:
                    _describe(manifest, path, store)
            _take_data_file_along(manifests, config.out)
            module_names(base.files)  # fill the cache: planning a sweep needs them, without PyTorch


def _claim_hardware(config: TokenizeConfig, team: Team) -> None:
    if team.size == 1:
        return
    if (own := device()).type == "cuda":
        torch.cuda.set_device(own)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", team.size))
    limit_threads(config.threads or max(1, torch.get_num_threads() // beside))


def _outputs(config: TokenizeConfig) -> list[Path]:
    return [output_path(Path(manifest), config.out) for manifest in config.manifests]


def output_path(manifest: Path, out: str | None) -> Path:
    """``NAME.tokens.jsonl`` in ``out``, or in the manifest's folder."""
    return (Path(out) if out else manifest.parent) / f"{manifest.stem}.tokens.jsonl"


def _plan(store: FeatureStore, manifests: Sequence[Manifest], count: int) -> list[Wanted]:
    """Shares of missing recordings for ``count`` processes; prints the workload and checks the free disk space."""
    wanted = find_wanted(store, manifests)
    if wanted:
        print(f"to encode: {describe_need(store, wanted)}", flush=True)
    return wanted.shares(count)


def _print_speed(reports: Sequence[Sequence[float]]) -> None:
    """Throughput by the slowest process, including reading and storing but not loading the encoders."""
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


def _describe(manifest: Manifest, path: Path, store: FeatureStore) -> None:
    codes = int(rows_of(store, recording_digests(manifest)).sum())
    said = f"{len(manifest)} conversations, {codes} codes ({codes / 12.5 / 60:.1f} min of audio)"
    print(f"{printable(str(path))}: {said}")


def _take_data_file_along(manifests: Sequence[Manifest], out: str | None) -> None:
    """Copy the ``data.yaml`` beside the manifests, which names them without a folder, to where they are now."""
    folders = {manifest.source.path.parent.resolve() for manifest in manifests}
    file = folders.pop() / DATA_FILE
    if out and not folders and file.is_file() and file.parent != Path(out).resolve():
        write_text(Path(out) / DATA_FILE, file.read_text(encoding="utf-8"))


def pretokenized(manifest: Manifest, store: FeatureStore, tokens: TokenRange, folder: Path) -> Iterator[dict[str, Any]]:
    """The manifest's lines with codes; relative audio paths stay valid from ``folder``.

    DataError: the manifest or a recording has changed since it was read, or a code is out of the model's range.
    """
    source, digests = manifest.source, iter(recording_digests(manifest))
    moved = folder.resolve() != source.path.parent.resolve()
    _ = manifest[0]  # raises if the file has changed since it was indexed
    for number, text in numbered_lines(source.path):
        row = json.loads(text)
        for message in row["conversation"]:
            if message["message_type"] == "audio":
                key = next(digests).tobytes().hex()
                if key not in store:
                    problem = f"{message['content']} has changed while the recordings were encoded"
                    raise DataError(source.path, problem, "Run the same command again", number)
                codes = [code + tokens.first for code in store.codes(key)]
                if max(codes) >= tokens.end:
                    problem = f"{message['content']} has code {max(codes) - tokens.first}, beyond the model's"
                    remedy = "Check model.path and model.speech_tokenizer: they do not belong together"
                    raise DataError(source.path, problem, remedy, number)
                message["audio_tokens"] = codes
                if moved:
                    message["content"] = str(source.audio_root / message["content"])
        yield {"id": id_of(row, number), **row}
