"""From recordings to the store: cached is online, nothing is computed twice, perturbations are what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from kimi_audio_ft.data.audio import read_audio
from kimi_audio_ft.data.encoding import UNCHANGED, Encoders, Perturbation, encode_missing
from kimi_audio_ft.data.manifest import Conversation, read_manifest
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.model import SpeechTokenizer, WhisperFeatureExtractor, num_audio_tokens
from kimi_audio_ft.model.files import ModelFiles
from kimi_audio_ft.signature import file_digest
from kimi_audio_ft.store import write_jsonl

if TYPE_CHECKING:
    from conftest import Corpus, Tiny


class CountingTokenizer(SpeechTokenizer):
    """The real one, which notes the length of every waveform and can be killed after some."""

    seen: list[int]
    kill_after: int

    def encode(self, waveforms: list[Tensor]) -> list[Tensor]:
        if len(self.seen) > self.kill_after:
            raise KeyboardInterrupt
        self.seen.extend(len(waveform) for waveform in waveforms)
        return super().encode(waveforms)


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


@pytest.fixture
def conversations(encoded: Path) -> list[Conversation]:
    return read_manifest(encoded / "raw.jsonl")


def test_cached_is_online(corpus: Corpus, tiny: Tiny, conversations: list[Conversation]) -> None:
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


def test_bf16_features_are_a_store_of_their_own(tiny: Tiny, conversations: list[Conversation]) -> None:
    encoders = tiny.encoders(dtype=torch.bfloat16)
    store = encode_missing(encoders, conversations[:1], progress=False)
    (path,) = conversations[0].audio_paths
    _, whisper = encoders.load()
    assert whisper is not None
    (features,) = whisper([read_audio(path)])
    assert features.dtype == torch.bfloat16 and torch.equal(store.features(file_digest(path)), features)
    assert store.signature != tiny.encoders().store().signature


def test_codes_alone_need_no_whisper(
    tiny: Tiny, conversations: list[Conversation], encoded: Path, tmp_path: Path
) -> None:
    files = tiny.encoders().files
    without = Encoders(ModelFiles(files.root, tmp_path / "none", files.speech_tokenizer), False, torch.float32)
    store = encode_missing(without, conversations[:2], progress=False)
    assert store.dim == 0 and store.codes(file_digest(encoded / "clips/1.wav"))
    with pytest.raises(ConfigError, match=r"model\.path=.*whisper-large-v3 must be a folder"):
        Encoders(without.files, True, torch.float32).store()
    missing = ModelFiles(files.root, files.whisper, tmp_path / "glm")
    with pytest.raises(ConfigError, match=r"model\.speech_tokenizer=.*glm.*voice tokenizer must be a folder"):
        Encoders(missing, False, torch.float32).store()


def test_only_what_is_missing_is_encoded(tiny: Tiny, conversations: list[Conversation]) -> None:
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


def test_a_killed_run_goes_on_where_it_was(tiny: Tiny, conversations: list[Conversation]) -> None:
    killed = counting(tiny, features=False, kill_after=4)
    with pytest.raises(KeyboardInterrupt):
        encode_missing(killed, conversations, batch_size=2, progress=False)
    assert killed.seen == [-1, 4800, 14400, 8000, 20800]
    again = counting(tiny, features=False)
    store = encode_missing(again, conversations, batch_size=2, progress=False)
    assert again.seen == [-1, 11200, 17600, 6400, 9600]
    assert all(file_digest(path) in store for c in conversations for path in c.audio_paths)


def test_a_recording_is_known_by_its_bytes(tiny: Tiny, conversations: list[Conversation], tmp_path: Path) -> None:
    """A copy elsewhere is not encoded again, a changed file of the same name is; twice in one run is once."""
    (original,) = conversations[0].audio_paths
    copy = tmp_path / "copy.wav"
    copy.write_bytes(original.read_bytes())
    row = {"role": "user", "message_type": "audio", "content": str(copy)}
    rows = [{"id": name, "task_type": "understanding", "conversation": [row]} for name in "ab"]
    write_jsonl(tmp_path / "m.jsonl", rows)
    moved = read_manifest(tmp_path / "m.jsonl")
    counted = counting(tiny, features=False)
    encode_missing(counted, [conversations[0], *moved], progress=False)
    assert counted.seen == [-1, 4800]
    soundfile.write(copy, np.zeros(5000), 16000)
    encode_missing(counted, moved, progress=False)
    assert counted.seen == [-1, 4800, -1, 5000]


def test_keys_of_perturbations(tiny: Tiny, conversations: list[Conversation]) -> None:
    perturbations = [UNCHANGED, Perturbation(0.9), Perturbation(1.1, -6.0), Perturbation(1.0, 3.0)]
    assert [p.key("d") for p in perturbations] == ["d", "d@0.9x+0dB", "d@1.1x-6dB", "d@1x+3dB"]
    store = encode_missing(tiny.encoders(False), conversations[1:2], perturbations, progress=False)
    (path,) = conversations[1].audio_paths
    digest, samples = file_digest(path), len(read_audio(path))
    assert all(perturbation.key(digest) in store for perturbation in perturbations)
    lengths = [store.num_rows(perturbation.key(digest)) for perturbation in perturbations]
    assert lengths == [num_audio_tokens(math.ceil(samples / factor)) for factor in (1, 0.9, 1.1, 1)]
    assert lengths[1] > lengths[0] > lengths[2]


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.015, 2.0])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    """1.015 * 16000 is a hair under 16240 in binary: cut to 16239 Hz, torchaudio would build a gigabyte of filters."""
    waveform = torch.sin(2 * torch.pi * 300 * torch.arange(16000) / 16000)
    faster = Perturbation(factor).apply(waveform)
    ratio = Fraction(str(factor))
    assert torch.equal(faster, resample(waveform, ratio.numerator, ratio.denominator))
    assert len(faster) == math.ceil(round(16000 / factor, 6))
    expected = torch.sin(2 * torch.pi * 300 * factor * torch.arange(len(faster)) / 16000)
    torch.testing.assert_close(faster[500:-500], expected[500:-500], atol=5e-3, rtol=0)


def test_gain_scales_and_clips() -> None:
    waveform = torch.tensor([0.1, -0.4, 0.6, -0.9])
    torch.testing.assert_close(Perturbation(1.0, -6.0).apply(waveform), waveform * 10 ** (-6 / 20))
    louder = Perturbation(1.0, 6.0).apply(waveform)
    torch.testing.assert_close(louder, torch.tensor([0.1 * 10**0.3, -0.4 * 10**0.3, 1.0, -1.0]))
    assert UNCHANGED.apply(waveform) is waveform


def test_an_unusable_recording_is_named(tiny: Tiny, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], np.float32), 16000, subtype="FLOAT")
    row = {"role": "user", "message_type": "audio", "content": "nan.wav"}
    write_jsonl(tmp_path / "m.jsonl", [{"task_type": "understanding", "conversation": [row]}])
    conversations = read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(UserError, match=r"nan\.wav: 1 of 2 samples are NaN or infinite"):
        encode_missing(tiny.encoders(False), conversations, progress=False)
    (tmp_path / "nan.wav").unlink()
    with pytest.raises(UserError, match=r"nan\.wav: cannot be read \(No such file"):
        encode_missing(tiny.encoders(False), conversations, progress=False)
