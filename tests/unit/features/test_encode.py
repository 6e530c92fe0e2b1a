"""From recordings to the store: cached is online, nothing is computed twice, perturbations are what they say."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from kimi_audio_ft.errors import ChangedError, DataError, UserError
from kimi_audio_ft.features import encode as encoding
from kimi_audio_ft.features.encode import Encoders, encode_missing, encode_wanted
from kimi_audio_ft.features.perturbation import UNCHANGED, Perturbation
from kimi_audio_ft.features.workload import find_wanted
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest.audio import read_audio
from kimi_audio_ft.manifest.manifest import Manifest, read_manifest
from kimi_audio_ft.model import SpeechTokenizer, WhisperFeatureExtractor, num_audio_tokens
from kimi_audio_ft.model.files import ModelFiles
from kimi_audio_ft.runtime.signals import Interrupted, StopRequest
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.features import FeatureStore
from tests.unit.conftest import Corpus, Tiny, audio, line


class CountingTokenizer(SpeechTokenizer):
    """The real one, which notes the length of every waveform and can be killed after some."""

    seen: list[int]
    kill_after: int

    def encode(self, waveforms: list[Tensor], batch_size: int = 8) -> list[Tensor]:
        if len(self.seen) > self.kill_after:
            raise KeyboardInterrupt
        self.seen.extend(len(waveform) for waveform in waveforms)
        return super().encode(waveforms, batch_size)


@dataclass(frozen=True)
class CountingEncoders(Encoders):
    """The real ones; ``seen`` gets -1 when they are loaded, then the lengths of the waveforms."""

    seen: list[int] = field(default_factory=list)
    kill_after: int = 10**9

    def load(self) -> tuple[SpeechTokenizer, WhisperFeatureExtractor | None]:
        self.seen.append(-1)
        _, whisper = super().load()
        tokenizer = CountingTokenizer.from_pretrained(self.files.speech_tokenizer)
        assert isinstance(tokenizer, CountingTokenizer)
        tokenizer.seen, tokenizer.kill_after = self.seen, self.kill_after
        return tokenizer, whisper


def counting(tiny: Tiny, features: bool = True, kill_after: int = 10**9) -> CountingEncoders:
    own = tiny.encoders(features)
    return CountingEncoders(own.files, own.features, own.dtype, own.device, kill_after=kill_after)


@dataclass(frozen=True)
class FillingEncoders(Encoders):
    """The real ones, which leave 48 KiB of a disk free while they are loaded."""

    disk: Path = Path()

    def load(self) -> tuple[SpeechTokenizer, WhisperFeatureExtractor | None]:
        (self.disk / "ballast").write_bytes(bytes(shutil.disk_usage(self.disk).free - 48 * 1024))
        return super().load()


@pytest.fixture
def conversations(encoded: Path) -> Manifest:
    return read_manifest(encoded / "raw.jsonl")


@pytest.mark.slow
def test_cached_is_online(corpus: Corpus, tiny: Tiny, conversations: Manifest) -> None:
    encoders = tiny.encoders()
    store = encoders.store()
    tokenizer, whisper = encoders.load()
    assert whisper is not None
    paths = [path for conversation in conversations for path in conversation.audio_paths]
    assert len(paths) == 8
    for path in paths[:4]:
        waveform = read_audio(path)
        (codes,), (features,) = tokenizer.encode([waveform]), whisper([waveform])
        key = file_digest(path)
        assert store.codes(key) == codes.tolist() and store.features(key).dtype == torch.float32
        assert len(codes) == len(features) == num_audio_tokens(len(waveform))
        torch.testing.assert_close(store.features(key), features, atol=1e-6, rtol=1e-6)
    in_one_batch = whisper([read_audio(path) for path in paths])
    assert all(torch.equal(store.features(file_digest(p)), f) for p, f in zip(paths, in_one_batch, strict=True))


def test_bf16_features_are_a_store_of_their_own(tiny: Tiny, conversations: Manifest) -> None:
    encoders = tiny.encoders(dtype=torch.bfloat16)
    store = encode_missing(encoders, conversations[:1], progress=False)
    (path,) = conversations[0].audio_paths
    _, whisper = encoders.load()
    assert whisper is not None
    (features,) = whisper([read_audio(path)])
    assert features.dtype == torch.bfloat16 and torch.equal(store.features(file_digest(path)), features)
    assert store.signature != tiny.encoders().store().signature


def test_codes_alone_need_no_whisper(tiny: Tiny, conversations: Manifest, encoded: Path, tmp_path: Path) -> None:
    files = tiny.encoders().files
    without = Encoders(ModelFiles(files.root, tmp_path / "none", files.speech_tokenizer), False, torch.float32)
    store = encode_missing(without, conversations[:2], progress=False)
    assert store.dim == 0 and store.codes(file_digest(encoded / "clips/1.wav"))


def test_only_what_is_missing_is_encoded(tiny: Tiny, conversations: Manifest) -> None:
    first = counting(tiny, features=False)
    encode_missing(first, conversations[:4], batch_size=2, progress=False)
    assert sorted(first.seen[1:]) == [4800, 8000, 11200, 14400, 20800]
    second = counting(tiny, features=False)
    store = encode_missing(second, conversations, batch_size=2, progress=False)
    assert second.seen == [-1, 17600, 6400, 9600]
    written = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    third = counting(tiny, features=False)
    encode_missing(third, conversations, progress=False)
    assert third.seen == []  # not even loaded
    assert {path: path.stat().st_mtime_ns for path in store.folder.iterdir()} == written


def test_an_interrupted_run_goes_on_where_it_was(
    tiny: Tiny, conversations: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BATCHES_PER_GROUP", 1)
    killed = counting(tiny, features=False, kill_after=4)
    with pytest.raises(KeyboardInterrupt):
        encode_missing(killed, conversations, batch_size=2, progress=False)
    assert killed.seen == [-1, 4800, 14400, 8000, 20800]
    again = counting(tiny, features=False)
    store = encode_missing(again, conversations, batch_size=2, progress=False)
    assert again.seen == [-1, 11200, 17600, 6400, 9600]
    assert all(file_digest(path) in store for c in conversations for path in c.audio_paths)


@dataclass(frozen=True)
class InterruptedEncoders(CountingEncoders):
    """While they are loaded, another process wants the same recordings."""

    meanwhile: Callable[[], None] = field(default=lambda: None)

    def load(self) -> tuple[SpeechTokenizer, WhisperFeatureExtractor | None]:
        self.meanwhile()
        return super().load()


def test_packs_side_by_side_encode_each_recording_once(tiny: Tiny, conversations: Manifest) -> None:
    second = counting(tiny, features=False)
    with ThreadPoolExecutor(1) as pool:
        own = tiny.encoders(False)
        other: list[Future[FeatureStore]] = []
        first = InterruptedEncoders(
            *(own.files, own.features, own.dtype, own.device),
            meanwhile=lambda: other.append(pool.submit(encode_missing, second, conversations, progress=False)),
        )
        store = encode_missing(first, conversations, progress=False)
        assert len(other[0].result()) == len(store) == 8
    assert len(first.seen) == 1 + 8 and second.seen == []


def test_a_request_to_stop_is_heard_before_each_group(tiny: Tiny, conversations: Manifest) -> None:
    own = tiny.encoders(False)
    asked = InterruptedEncoders(
        *(own.files, own.features, own.dtype, own.device), meanwhile=lambda: signal.raise_signal(signal.SIGTERM)
    )
    with StopRequest(), pytest.raises(Interrupted):
        encode_missing(asked, conversations, progress=False)
    assert asked.seen == [-1]
    with StopRequest():
        assert len(encode_missing(own, conversations, progress=False)) == 8


def test_a_recording_is_known_by_its_bytes(tiny: Tiny, conversations: Manifest, tmp_path: Path) -> None:
    """A copy elsewhere is not encoded again, a changed file of the same name is; twice in one run is once."""
    (original,) = conversations[0].audio_paths
    copy = tmp_path / "copy.wav"
    copy.write_bytes(original.read_bytes())
    write_jsonl(tmp_path / "m.jsonl", [line(name, audio(str(copy))) for name in "ab"])
    moved = read_manifest(tmp_path / "m.jsonl")
    counted = counting(tiny, features=False)
    encode_missing(counted, moved, progress=False)
    encode_missing(counted, conversations[:1], progress=False)
    assert counted.seen == [-1, 4800]
    soundfile.write(copy, np.zeros(5000), 16000)
    encode_missing(counted, moved, progress=False)
    assert counted.seen == [-1, 4800, -1, 5000]


def test_keys_of_perturbations(tiny: Tiny, conversations: Manifest) -> None:
    perturbations = [UNCHANGED, Perturbation(0.9), Perturbation(1.1, -6.0), Perturbation(1.0, 3.0)]
    assert [p.key("d") for p in perturbations] == ["d", "d@0.9x+0dB", "d@1.1x-6dB", "d@1x+3dB"]
    store = encode_missing(tiny.encoders(False), conversations[1:2], perturbations, progress=False)
    (path,) = conversations[1].audio_paths
    digest, samples = file_digest(path), len(read_audio(path))
    assert all(perturbation.key(digest) in store for perturbation in perturbations)
    lengths = store.rows_of(perturbation.key(digest) for perturbation in perturbations).tolist()
    assert lengths == [num_audio_tokens(math.ceil(samples / factor)) for factor in (1, 0.9, 1.1, 1)]
    assert lengths[1] > lengths[0] > lengths[2]


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Clips of 1 sample to more than a minute."""
    folder, rng = tmp_path_factory.mktemp("ragged"), np.random.default_rng(3)
    lengths = (20000, 481000, 1, 480000, 1280, 1281, 9600, 1040001, 33333, 300)
    for samples in lengths:
        soundfile.write(folder / f"{samples}.wav", rng.normal(0, 0.1, samples), 16000)
    write_jsonl(folder / "m.jsonl", [line(str(samples), audio(f"{samples}.wav")) for samples in lengths])
    return read_manifest(folder / "m.jsonl")


@pytest.mark.slow
def test_the_neighbours_in_a_batch_change_nothing(
    tiny: Tiny, ragged: Manifest, private_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = encode_missing(tiny.encoders(), ragged, batch_size=1, progress=False)
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(private_store / "batched"))
    batched = encode_missing(tiny.encoders(), ragged, batch_size=5, progress=False)
    assert alone.folder != batched.folder and len(alone) == len(batched) == 10
    for conversation in ragged:
        (path,) = conversation.audio_paths
        key, samples = file_digest(path), int(path.stem)
        assert alone.codes(key) == batched.codes(key) and alone.rows_of([key]).tolist() == [num_audio_tokens(samples)]
        torch.testing.assert_close(alone.features(key), batched.features(key), atol=1e-5, rtol=0)


@dataclass(frozen=True)
class WrongEncoders(Encoders):
    """Real ones that lose a feature row, or name codes that do not exist."""

    lost_rows: int = 0
    added: int = 0

    def load(self) -> tuple[SpeechTokenizer, WhisperFeatureExtractor | None]:
        tokenizer, whisper = super().load()
        assert whisper is not None
        real_codes, real_features = tokenizer.encode, whisper.encode
        tokenizer.encode = lambda *given: [row + self.added for row in real_codes(*given)]  # type: ignore[method-assign]
        whisper.encode = lambda *given: [row[self.lost_rows :] for row in real_features(*given)]  # type: ignore[method-assign]
        return tokenizer, whisper


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"lost_rows": 1}, r"clips/0\.wav: 4 codes and 3 feature rows for 4800 samples, which are 4 audio tokens"),
        ({"added": 250}, r"clips/0\.wav: codes from \d+ to \d+, but they must lie in 0 to 255\. .*download them"),
        ({"added": -250}, r"clips/0\.wav: codes from -\d+ to "),
    ],
)
def test_every_recording_s_codes_and_features_are_verified(
    tiny: Tiny, conversations: Manifest, fault: dict[str, int], message: str
) -> None:
    own = tiny.encoders()
    wrong = WrongEncoders(own.files, own.features, own.dtype, own.device, **fault)
    with pytest.raises(DataError, match=message):
        encode_missing(wrong, conversations[:1], progress=False)
    assert len(wrong.store()) == 0


def test_a_tokenizer_of_another_rate_is_refused(tiny: Tiny, conversations: Manifest, tmp_path: Path) -> None:
    files = tiny.encoders().files
    shutil.copytree(files.speech_tokenizer, tmp_path / "glm")
    settings = json.loads((tmp_path / "glm" / "config.json").read_text())
    (tmp_path / "glm" / "config.json").write_text(json.dumps(settings | {"pooling_kernel_size": 2}))
    doubled = Encoders(ModelFiles(files.root, files.whisper, tmp_path / "glm"), False, torch.float32)
    with pytest.raises(DataError, match=r"0\.wav: 8 codes .* for 4800 samples, which are 4 audio tokens"):
        encode_missing(doubled, conversations[:1], progress=False)


def test_a_disk_that_is_too_small_is_seen_before_anything_is_loaded(
    tiny: Tiny, ragged: Manifest, disk_of: Callable[[int], Path]
) -> None:
    disk_of(512)
    counted = counting(tiny)
    remedies = r"KIMI_AUDIO_FT_STORE.*features=false.*data\.features=online"
    with pytest.raises(UserError, match=rf"10 recordings, 0\.0\d+ hours of audio, about 2\.\d MB .* free.*{remedies}"):
        encode_missing(counted, ragged, progress=False)
    assert counted.seen == []
    codes_only = counting(tiny, features=False)
    assert len(encode_missing(codes_only, ragged, progress=False)) == 10
    disk_of(4)
    with pytest.raises(UserError, match=r"10 recordings.*of codes do not fit.* on a larger disk$"):
        encode_missing(codes_only, ragged, progress=False)


def test_a_disk_that_others_fill_meanwhile(
    tiny: Tiny, conversations: Manifest, disk_of: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_of(512)
    monkeypatch.setattr(encoding, "BATCHES_PER_GROUP", 1)
    own = tiny.encoders()
    filling = FillingEncoders(own.files, own.features, own.dtype, own.device, disk)
    with pytest.raises(UserError, match=r"the disk is full; nothing half-written was kept"):
        encode_missing(filling, conversations, batch_size=1, progress=False)
    kept = len(filling.store())
    assert 0 < kept < 8
    (disk / "ballast").unlink()
    assert len(encode_missing(tiny.encoders(), conversations, batch_size=1, progress=False)) == 8


def test_an_unusable_recording_is_named(tiny: Tiny, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], np.float32), 16000, subtype="FLOAT")
    write_jsonl(tmp_path / "m.jsonl", [line("nan", audio("nan.wav"))])
    conversations = read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(UserError, match=r"m\.jsonl:1: .*nan\.wav: 1 of 2 samples are NaN or infinite"):
        encode_missing(tiny.encoders(False), conversations, progress=False)
    part = audio("nan.wav") | {"start": 0.0, "end": 2 / 16000}
    write_jsonl(tmp_path / "m.jsonl", [line("part", part)])
    with pytest.raises(UserError, match=r"m\.jsonl:1: .*nan\.wav \(0 s to 0\.000125 s\): 1 of 2 samples"):
        encode_missing(tiny.encoders(False), read_manifest(tmp_path / "m.jsonl"), progress=False)


def test_a_recording_that_is_replaced_while_it_is_encoded_is_not_stored_as_what_it_was(
    tiny: Tiny, conversations: Manifest, tmp_path: Path
) -> None:
    """Between the look at its bytes, by which it is stored, and the reading of its samples."""
    (first, *_), (second, *_) = conversations[0].audio_paths, conversations[1].audio_paths
    path = tmp_path / "a.wav"
    path.write_bytes(first.read_bytes())
    write_jsonl(tmp_path / "m.jsonl", [line("a", audio(str(path)))])
    store = tiny.encoders(False).store()
    wanted = find_wanted(store, [read_manifest(tmp_path / "m.jsonl")])
    path.write_bytes(second.read_bytes())
    with pytest.raises(ChangedError, match=rf"^{path}: changed while it was being encoded"):
        encode_wanted(tiny.encoders(False), store, wanted, progress=False)
    assert file_digest(first) not in tiny.encoders(False).store()
