"""Workload of encoding: recordings missing from the store, their length, and their shares for several processes."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.filesize import decimal

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.features.perturbation import UNCHANGED, Perturbation
from kimi_audio_ft.manifest.audio import SAMPLE_RATE, AudioError, audio_info, lengths_16k
from kimi_audio_ft.manifest.manifest import Manifest, require_recordings
from kimi_audio_ft.manifest.part import Part
from kimi_audio_ft.model.audio_frontend import PIECE_SAMPLES, num_audio_tokens
from kimi_audio_ft.store.features import FeatureStore

_SHOWN = 5  # recordings that cannot be used, in the error


@dataclass(frozen=True)
class Wanted:
    """Recordings to encode as N columns; a million take about 250 MB.

    parts: of the files. digests: sha256 of each file's bytes, or that of the part, ``[N, 32]``. changes: index into
    ``perturbations``. samples: length at 16 kHz after perturbation, from the file's header.
    """

    paths: list[str]
    parts: list[Part]
    digests: np.ndarray  # uint8
    changes: np.ndarray  # int16
    samples: np.ndarray  # int64
    perturbations: tuple[Perturbation, ...] = (UNCHANGED,)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def seconds(self) -> float:
        return float(self.samples.sum()) / SAMPLE_RATE

    def name(self, number: int) -> str:
        """File and part, for messages."""
        return self.parts[number].name_in(self.paths[number])

    def key(self, number: int) -> str:
        return self.perturbation(number).key(self.digest(number))

    def digest(self, number: int) -> str:
        return self.digests[number].tobytes().hex()

    def perturbation(self, number: int) -> Perturbation:
        return self.perturbations[int(self.changes[number])]

    def select(self, numbers: np.ndarray) -> Wanted:
        paths, parts = ([values[number] for number in numbers] for values in (self.paths, self.parts))
        return Wanted(
            paths, parts, self.digests[numbers], self.changes[numbers], self.samples[numbers], self.perturbations
        )

    def shares(self, count: int) -> list[Wanted]:
        """Splits into ``count`` shares of about equal audio length, each in the original order."""
        if count == 1:
            return [self]
        loads = [(0, worker) for worker in range(count)]
        owner = np.zeros(len(self), np.int64)
        for number in np.argsort(-self.samples, kind="stable"):  # greedy: the longest first, to the least loaded
            load, worker = heapq.heappop(loads)
            owner[number] = worker
            heapq.heappush(loads, (load + int(self.samples[number]), worker))
        return [self.select(np.flatnonzero(owner == worker)) for worker in range(count)]

    def groups(self, pieces: int) -> Iterator[range]:
        """Consecutive runs of about ``pieces`` 30 s pieces; a longer recording is a run of its own."""
        first, total = 0, 0
        for number, samples in enumerate(self.samples):
            here = -(-int(samples) // PIECE_SAMPLES)
            if total and total + here > pieces:
                yield range(first, number)
                first, total = number, 0
            total += here
        if total:
            yield range(first, len(self))


def find_wanted(
    store: FeatureStore, manifests: Sequence[Manifest], perturbations: Sequence[Perturbation] = (UNCHANGED,)
) -> Wanted:
    """Distinct recordings that the store lacks, with lengths from headers; a DataError names the unreadable ones."""
    audios = [manifest.audio_messages() for manifest in manifests]
    digests = np.concatenate([recording_digests(manifest) for manifest in manifests])
    once = np.sort(np.unique(digests.reshape(-1).view("S32"), return_index=True)[1])
    missing = [once[rows_of(store, digests[once], perturbation) < 0] for perturbation in perturbations]
    # All perturbations of a recording are consecutive, so that it stays in the page cache.
    numbers = np.concatenate(missing)
    changes = np.repeat(np.arange(len(perturbations), dtype=np.int16), [len(part) for part in missing])
    order = np.argsort(numbers, kind="stable")
    numbers, changes = numbers[order], changes[order]
    audio_of = np.concatenate(audios)
    manifest_of = np.repeat(np.arange(len(manifests)), [len(part) for part in audios])

    needed, inverse = np.unique(numbers, return_inverse=True)
    places = [(manifests[manifest_of[number]], int(audio_of[number])) for number in needed]
    paths = [str(manifest.source.audio_root / manifest.columns.name(audio)) for manifest, audio in places]
    parts = [manifest.columns.part(audio) for manifest, audio in places]
    try:
        plain = lengths_16k(paths, parts)
    except AudioError:
        raise _unusable(paths, parts, places) from None
    pairs = zip(changes.tolist(), plain[inverse].tolist(), strict=True)
    samples = [perturbations[change].num_samples(length) for change, length in pairs]
    return Wanted(
        [paths[index] for index in inverse],
        [parts[index] for index in inverse],
        digests[numbers],
        changes,
        np.array(samples, np.int64),
        tuple(perturbations),
    )


def _unusable(paths: Sequence[str], parts: Sequence[Part], places: Sequence[tuple[Manifest, int]]) -> DataError:
    """All recordings that cannot be read, the first few with their lines; ``places``: of each, its audio message."""
    problems: list[tuple[int, AudioError]] = []
    for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
        try:
            audio_info(path, part)
        except AudioError as error:
            problems.append((number, error))
    lines = [f"line {_line_of(*places[number])}: {error}" for number, error in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more")
    manifest, audio = places[problems[0][0]]
    said = "\n  ".join([f"{len(problems)} of {len(paths)} recordings cannot be used:", *lines])
    return DataError(manifest.source.path, said, line=_line_of(manifest, audio))


def at_its_line(manifests: Sequence[Manifest], error: AudioError) -> DataError:
    """The error of a recording that could not be decoded, with the manifest and line that name it."""
    for manifest in manifests:
        for audio in manifest.audio_messages().tolist():
            path = manifest.source.audio_root / manifest.columns.name(audio)
            if str(error.path) in (str(path), manifest.columns.part(audio).name_in(path)):
                return DataError(manifest.source.path, str(error), line=_line_of(manifest, audio))
    return error


def _line_of(manifest: Manifest, audio: int) -> int:
    mask = np.zeros(manifest.recordings.count, bool)
    mask[audio] = True
    found = manifest.first_with(mask)
    assert found is not None
    return found[0].line


def recording_digests(manifest: Manifest) -> np.ndarray:
    """sha256 ``[n, 32]`` (uint8) of every audio message's recording, in order; DataError if one is missing."""
    digests = manifest.recordings.digests()[manifest.audio_messages()]
    if not digests.any(axis=1).all():
        require_recordings(manifest)
    return digests


def rows_of(store: FeatureStore, digests: np.ndarray, perturbation: Perturbation = UNCHANGED) -> np.ndarray:
    """Number of rows stored for each of these digests ``[n, 32]``; -1 if it is missing."""
    return store.rows_of(perturbation.key(row.tobytes().hex()) for row in digests)


def describe_need(store: FeatureStore, wanted: Wanted) -> str:
    """The workload and its disk usage in words; UserError if the disk has too little space."""
    rows = sum(num_audio_tokens(samples) for samples in wanted.samples.tolist())
    disk = next(folder for folder in (store.folder, *store.folder.parents) if folder.is_dir())
    need, free = store.bytes_for(rows, len(wanted)), shutil.disk_usage(disk).free
    kind = "features and codes" if store.dim else "codes"
    text = f"{len(wanted)} recordings, {wanted.seconds / 3600:.3g} hours of audio, about {decimal(need)} of {kind}"
    if need > free:
        smaller = "Set KIMI_AUDIO_FT_STORE to a folder on a larger disk"
        if store.dim:
            smaller += (
                ", or keep no features: tokenize with features=false and train with data.features=online "
                "(the Whisper encoder then runs in every step)"
            )
        raise UserError(f"{store.folder}: {text} do not fit, {decimal(free)} are free there. {smaller}")
    return f"{text} into {store.folder} ({decimal(free)} free)"
