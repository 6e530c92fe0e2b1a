"""What is to be encoded, and by whom: each recording once, shares of equal length, sizes that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.features.perturbation import UNCHANGED, Perturbation
from kimi_audio_ft.features.workload import Wanted, describe_need, find_wanted
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest.manifest import Manifest, read_manifest
from kimi_audio_ft.manifest.part import WHOLE
from kimi_audio_ft.model.audio_frontend import num_audio_tokens
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.features import FeatureStore
from tests.unit.conftest import audio, line


def wanted_of(samples: list[int]) -> Wanted:
    digests = np.random.default_rng(1).integers(0, 256, (len(samples), 32), np.uint8)
    changes = (np.arange(len(samples)) % 2).astype(np.int16)
    paths = [f"/data/{index} 语.wav" for index in range(len(samples))]
    parts = [WHOLE] * len(samples)
    return Wanted(paths, parts, digests, changes, np.array(samples), (UNCHANGED, Perturbation(0.9, -3.0)))


def facts(wanted: Wanted) -> list[tuple[str, str, Perturbation, int]]:
    return [
        (wanted.paths[number], wanted.key(number), wanted.perturbation(number), int(wanted.samples[number]))
        for number in range(len(wanted))
    ]


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Manifest]:
    """Writes recordings of so many samples, at a rate, and a manifest of them; equal lengths are equal files."""

    def write(name: str, *lengths: int, rate: int = 16000) -> Manifest:
        lines = []
        for index, samples in enumerate(lengths):
            soundfile.write(tmp_path / f"{name}{index}.wav", np.full(samples, 0.25), rate)
            lines.append(line(str(index), audio(f"{name}{index}.wav")))
        write_jsonl(tmp_path / f"{name}.jsonl", lines)
        return read_manifest(tmp_path / f"{name}.jsonl")

    return write


def codes_store(tokenizer: str = "s") -> FeatureStore:
    return FeatureStore({"speech_tokenizer": tokenizer}, dim=0)


def test_shares_hold_everything_once_and_are_equally_long() -> None:
    samples = [int(value) for value in np.random.default_rng(2).integers(1, 500_000, 300)]
    wanted = wanted_of(samples)
    for count in (1, 2, 7):
        shares = wanted.shares(count)
        assert sorted(fact[1] for share in shares for fact in facts(share)) == sorted(fact[1] for fact in facts(wanted))
        seconds = [share.seconds for share in shares]
        assert max(seconds) - min(seconds) < 0.02 * max(seconds)
        order = {path: place for place, path in enumerate(wanted.paths)}
        assert all(share.paths == sorted(share.paths, key=order.__getitem__) for share in shares)
    assert [len(share) for share in wanted_of([5, 5]).shares(3)] == [1, 1, 0]


def test_groups_are_bounded_by_their_pieces() -> None:
    piece = 480_000
    wanted = wanted_of([1, piece, piece + 1, 10 * piece, 5, 5, 5, 2 * piece])
    assert list(wanted.groups(4)) == [range(3), range(3, 4), range(4, 7), range(7, 8)]
    assert list(wanted.groups(1)) == [range(i, i + 1) for i in range(8)]
    assert list(wanted.groups(10**6)) == [range(8)] and list(wanted_of([]).groups(4)) == []


def test_each_recording_is_wanted_once_with_every_change(manifest: Callable[..., Manifest]) -> None:
    first, second = manifest("a", 8000, 16000, 8000), manifest("b", 24000, 16000)
    store, slow = codes_store(), Perturbation(0.8)
    store.add([(file_digest(first[0].audio_paths[0]), [1] * 7, None)])
    wanted = find_wanted(store, [first, second], (UNCHANGED, slow))
    assert [(Path(path).name, change, samples) for path, _, change, samples in facts(wanted)] == [
        ("a0.wav", slow, 10000),
        ("a1.wav", UNCHANGED, 16000),
        ("a1.wav", slow, 20000),
        ("b0.wav", UNCHANGED, 24000),
        ("b0.wav", slow, 30000),
    ]
    assert [key for _, key, _, _ in facts(wanted)][1] == file_digest(first[1].audio_paths[0])
    store.add([(wanted.key(number), [1], None) for number in range(len(wanted))])
    assert len(find_wanted(store, [first, second], (UNCHANGED, slow))) == 0
    some = find_wanted(codes_store("t"), [first[1:2], second])
    assert [Path(path).name for path in some.paths] == ["a1.wav", "b0.wav"]


def test_lengths_are_those_at_16_khz(manifest: Callable[..., Manifest]) -> None:
    wanted = find_wanted(codes_store(), [manifest("a", 44100, 44101, rate=44100)])
    assert wanted.samples.tolist() == [16000, 16001] and wanted.seconds == pytest.approx(2.0, abs=1e-3)


def test_recordings_that_cannot_be_read_are_named(manifest: Callable[..., Manifest]) -> None:
    found = manifest("a", 8000, 16000)
    (path,) = found[1].audio_paths
    path.write_bytes(b"no recording")
    with pytest.raises(DataError) as caught:
        find_wanted(codes_store(), [found])
    first, second = str(caught.value).split("\n")
    assert first.endswith("a.jsonl:2: 1 of 2 recordings cannot be used:")
    assert second.startswith(f"  line 2: {path}: not a readable recording")
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl:2: there is no recording .*a1\.wav"):
        find_wanted(codes_store(), [found])


def test_the_need_is_about_128_kb_a_second_in_bf16(disk_of: Callable[[int], Path]) -> None:
    samples = [480_000] * 3 + [100]
    rows = sum(num_audio_tokens(length) for length in samples)
    disk_of(2**14)
    full = FeatureStore({"whisper": "w"}, 5120, torch.bfloat16)
    assert rows == 1126 and full.bytes_for(rows, 4) / 90 == pytest.approx(128_000, rel=0.01)
    text = describe_need(full, wanted_of(samples))
    assert text.startswith("4 recordings, 0.025 hours of audio, about 11.5 MB of features and codes into ")
    assert str(full.folder) in text and text.endswith("(16.8 MB free)")
    with pytest.raises(UserError, match=r"about 23\.1 MB .* do not fit, 16\.8 MB are free there.*features=false"):
        describe_need(full, wanted_of(2 * samples))
