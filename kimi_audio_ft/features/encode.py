"""Encoding: recordings to codes and Whisper features, through the feature store."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from kimi_audio_ft.errors import ChangedError, DataError
from kimi_audio_ft.features.identity import encoder_identity
from kimi_audio_ft.features.perturbation import UNCHANGED, Perturbation
from kimi_audio_ft.features.workload import Wanted, at_its_line, describe_need, find_wanted
from kimi_audio_ft.files import read_json_object
from kimi_audio_ft.manifest.audio import AudioError, read_audio
from kimi_audio_ft.manifest.manifest import Manifest
from kimi_audio_ft.model.audio_frontend import num_audio_tokens
from kimi_audio_ft.model.files import ModelFiles
from kimi_audio_ft.model.speech_tokenizer import SpeechTokenizer
from kimi_audio_ft.model.whisper import PIECE_ROWS, WhisperFeatureExtractor
from kimi_audio_ft.runtime.signals import leave_if_asked
from kimi_audio_ft.store.digests import file_digests
from kimi_audio_ft.store.features import FeatureStore, Item
from kimi_audio_ft.store.make import waited_for

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Batches of 30 s pieces in a group, which is read, sorted by length, encoded and stored as a whole.
BATCHES_PER_GROUP = 8
# Rows of an encoder in a batch of eight pieces, and widths of a row that are alive in a layer.
_ROWS_AT_ONCE, _WIDTHS = 8 * PIECE_ROWS, 12


def online_bytes(files: ModelFiles, dtype: str, features: str) -> int:
    """Memory of the frozen Whisper encoder beside a model that hears by it, with what a batch of pieces takes; else 0.

    Args:
        dtype, features: ``model.dtype`` and ``data.features``.
    """
    return _encoder_bytes(files.whisper, "encoder_layers", DTYPES[dtype]) if features == "online" else 0


def encoders_bytes(files: ModelFiles, dtype: str, features: str) -> int:
    """Memory of the encoders that ``Encoders.load`` gives, beside the model, with what a batch of pieces takes."""
    whisper = _encoder_bytes(files.whisper, "encoder_layers", DTYPES[dtype]) if features == "cached" else 0
    return whisper + _encoder_bytes(files.speech_tokenizer, "quantize_position", torch.float32)


def _encoder_bytes(folder: Path, layers: str, dtype: torch.dtype) -> int:
    numbers, width = encoder_size(folder, layers)
    return dtype.itemsize * (numbers + width * _ROWS_AT_ONCE * _WIDTHS)


def encoder_size(folder: Path, layers: str = "encoder_layers") -> tuple[int, int]:
    """Parameters of an encoder's layers (12 · width² each), and its width.

    Args:
        layers: the name of their number in the folder's config; by default Whisper's.
    """
    shape = read_json_object(folder / "config.json", "Download the checkpoint again")
    width = int(shape["d_model"])
    return 12 * width**2 * int(shape[layers]), width


@dataclass(frozen=True)
class Encoders:
    """The two frozen encoders of a checkpoint.

    features: keep Whisper features as well as codes. dtype: of Whisper and its features.
    """

    files: ModelFiles
    features: bool
    dtype: torch.dtype
    device: str = "cpu"

    def store(self) -> FeatureStore:
        """Feature store of these encoders; opening it reads its index."""
        identity, width = encoder_identity(self.files, self.features)
        return FeatureStore(identity, width, self.dtype if self.features else torch.float32)

    def load(self) -> tuple[SpeechTokenizer, WhisperFeatureExtractor | None]:
        """Speech tokenizer, and the Whisper encoder if features are kept."""
        tokenizer = SpeechTokenizer.from_pretrained(self.files.speech_tokenizer, device=self.device)
        if not self.features:
            return tokenizer, None
        whisper = WhisperFeatureExtractor.from_pretrained(self.files.whisper, dtype=self.dtype, device=self.device)
        return tokenizer, whisper


def encode_missing(
    encoders: Encoders,
    manifest: Manifest,
    perturbations: Iterable[Perturbation] = (UNCHANGED,),
    batch_size: int = 8,
    progress: bool = True,
) -> FeatureStore:
    """Encodes what the store lacks, if anything; UserError: the disk is too small, or a recording unusable.

    One process at a time: packs side by side, or the ranks of one, want the same recordings.
    """
    store, changes = encoders.store(), tuple(dict.fromkeys(perturbations))
    if not find_wanted(store, [manifest], changes):
        return store
    with waited_for("features", f"{store.signature}.encoding", "encoding recordings"):
        store.refresh()
        if wanted := find_wanted(store, [manifest], changes):
            log.info("encoding %s", describe_need(store, wanted))
            try:
                took = encode_wanted(encoders, store, wanted, batch_size, progress=progress)
            except AudioError as error:
                raise at_its_line([manifest], error) from None
            log.info("encoded %d recordings in %.0f s", len(wanted), took)
    return store


def encode_wanted(
    encoders: Encoders,
    store: FeatureStore,
    wanted: Wanted,
    batch_size: int = 8,
    readers: int = 2,
    progress: bool = True,
) -> float:
    """Encodes recordings into the store; returns the seconds taken, excluding loading the encoders.

    Works in groups of ``BATCHES_PER_GROUP`` batches of 30 s pieces: while one is encoded, the next is read by
    ``readers`` threads and the previous one is written. A killed run loses at most two groups.

    Raises:
        DataError: of a recording that cannot be used, has the wrong number of codes or features, or has changed.
        Interrupted: this process was asked to stop (``StopRequest``); it is asked before each group.
    """
    leave_if_asked()
    tokenizer, whisper = encoders.load()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started = time.perf_counter()
    with Progress(*columns, disable=not progress) as bar, ThreadPoolExecutor(1) as writer:
        task = bar.add_task("encoding recordings", total=len(wanted))
        written: Future[None] = writer.submit(lambda: None)
        for numbers, waveforms in _read_ahead(wanted, batch_size * BATCHES_PER_GROUP, readers):
            leave_if_asked()
            codes = tokenizer.encode(waveforms, batch_size)
            features = whisper.encode(waveforms, batch_size) if whisper is not None else [None] * len(waveforms)
            items: list[Item] = []
            for number, waveform, row, rows in zip(numbers, waveforms, codes, features, strict=True):
                _verify(wanted.name(number), len(waveform), row, rows, tokenizer.vocab_size)
                items.append((wanted.key(number), row.tolist(), rows))
            _require_unchanged(wanted, numbers)
            written.result()
            written = writer.submit(store.add, items)
            bar.advance(task, len(items))
        written.result()
    return time.perf_counter() - started


def _read_ahead(wanted: Wanted, pieces: int, readers: int) -> Iterator[tuple[range, list[Tensor]]]:
    """Groups of recordings with their waveforms; the next group is prefetched."""

    def read(number: int) -> Tensor:
        path, part = wanted.paths[number], wanted.parts[number]
        return wanted.perturbation(number).apply(read_audio(path, part), wanted.digest(number))

    pool, ahead = ThreadPoolExecutor(readers), deque[tuple[range, list[Future[Tensor]]]]()
    try:
        for numbers in wanted.groups(pieces):
            ahead.append((numbers, [pool.submit(read, number) for number in numbers]))
            if len(ahead) > 1:
                numbers, waveforms = ahead.popleft()
                yield numbers, [waveform.result() for waveform in waveforms]
        for numbers, waveforms in ahead:
            yield numbers, [waveform.result() for waveform in waveforms]
    finally:
        pool.shutdown(cancel_futures=True)


def _require_unchanged(wanted: Wanted, numbers: range) -> None:
    paths = [wanted.paths[number] for number in numbers]
    for number, digest in zip(numbers, file_digests(paths), strict=True):
        if bytes.fromhex(wanted.parts[number].digest(digest)) != wanted.digests[number].tobytes():
            raise ChangedError(wanted.paths[number], "while it was being encoded")


def _verify(path: str, samples: int, codes: Tensor, features: Tensor | None, num_codes: int) -> None:
    expected, rows = num_audio_tokens(samples), len(codes) if features is None else len(features)
    if not len(codes) == rows == expected:
        problem = f"{len(codes)} codes and {rows} feature rows for {samples} samples, which are {expected} audio tokens"
        raise DataError(path, problem, "The speech tokenizer or Whisper is not of the kind that Kimi-Audio uses")
    if not 0 <= int(codes.min()) <= int(codes.max()) < num_codes:
        problem = f"codes from {int(codes.min())} to {int(codes.max())}, but they must lie in 0 to {num_codes - 1}"
        raise DataError(path, problem, "The speech tokenizer's weights are damaged; download them again")
