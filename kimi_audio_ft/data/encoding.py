"""From recordings to codes and features, through the store."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kimi_audio_ft.data.audio import SAMPLE_RATE, read_audio
from kimi_audio_ft.data.features import FeatureStore, feature_signature
from kimi_audio_ft.data.manifest import Conversation
from kimi_audio_ft.model.files import ModelFiles, require_folder
from kimi_audio_ft.model.json_files import read_json_object
from kimi_audio_ft.model.speech_tokenizer import SpeechTokenizer
from kimi_audio_ft.model.whisper import WhisperFeatureExtractor
from kimi_audio_ft.signature import file_digest, folder_digest

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Perturbation:
    """One way to change a recording: played faster by a factor, and louder by some dB."""

    speed: float = 1.0
    gain_db: float = 0.0

    def key(self, digest: str) -> str:
        """Key of the changed recording in the feature store."""
        return digest if self == UNCHANGED else f"{digest}@{self.speed:g}x{self.gain_db:+g}dB"

    def apply(self, waveform: Tensor) -> Tensor:
        """The changed waveform, clipped to [-1, 1]."""
        from torchaudio import functional

        if self.speed != 1.0:
            # As functional.speed, which cuts 1.015 * 16000 to 16239 Hz and then needs a gigabyte of filters.
            waveform = functional.resample(waveform, round(self.speed * SAMPLE_RATE), SAMPLE_RATE)
        if self.gain_db:
            waveform = functional.gain(waveform, self.gain_db).clamp(-1.0, 1.0)
        return waveform


UNCHANGED = Perturbation()


@dataclass(frozen=True)
class Encoders:
    """The two frozen encoders of a checkpoint.

    features: whether Whisper features are kept too, or codes only. dtype: number format of Whisper and its features.
    """

    files: ModelFiles
    features: bool
    dtype: torch.dtype
    device: str = "cpu"

    def store(self) -> FeatureStore:
        """The store of what these encoders compute; opening it reads its index."""
        return FeatureStore(*self._identity())

    def signature(self) -> str:
        """Name of that store, without reading it."""
        return feature_signature(*self._identity())

    def _identity(self) -> tuple[dict[str, Any], int, torch.dtype]:
        tokenizer = require_folder("model.speech_tokenizer", self.files.speech_tokenizer, "the GLM-4 voice tokenizer")
        identity = {"speech_tokenizer": folder_digest(tokenizer)}
        if not self.features:
            return identity, 0, torch.float32
        whisper = require_folder("model.path", self.files.whisper, "the checkpoint's whisper-large-v3")
        width = read_json_object(whisper / "config.json", "Download the checkpoint again")["d_model"]
        return identity | {"whisper": folder_digest(whisper)}, 4 * width, self.dtype

    def load(self) -> tuple[SpeechTokenizer, WhisperFeatureExtractor | None]:
        """Speech tokenizer and, when features are kept, the Whisper encoder."""
        tokenizer = SpeechTokenizer.from_pretrained(self.files.speech_tokenizer, device=self.device)
        if not self.features:
            return tokenizer, None
        whisper = WhisperFeatureExtractor.from_pretrained(self.files.whisper, dtype=self.dtype, device=self.device)
        return tokenizer, whisper


def encode_missing(
    encoders: Encoders,
    conversations: Iterable[Conversation],
    perturbations: Iterable[Perturbation] = (UNCHANGED,),
    batch_size: int = 8,
    progress: bool = True,
) -> FeatureStore:
    """Encode every recording that the store lacks; the encoders are loaded only if there is one.

    Every batch of recordings is stored before the next begins, so that a killed run goes on where it was.
    """
    store = encoders.store()
    wanted: dict[str, tuple[Path, Perturbation]] = {}
    for conversation in conversations:
        for path in conversation.audio_paths:
            digest = file_digest(path)
            for perturbation in perturbations:
                key = perturbation.key(digest)
                if key not in store:
                    wanted[key] = (path, perturbation)
    if wanted:
        _encode(encoders, store, wanted, batch_size, progress)
    return store


def _encode(
    encoders: Encoders,
    store: FeatureStore,
    wanted: dict[str, tuple[Path, Perturbation]],
    batch_size: int,
    progress: bool,
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    tokenizer, whisper = encoders.load()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("encoding recordings", total=len(wanted))
        pending = list(wanted.items())
        for start in range(0, len(pending), batch_size):
            some = pending[start : start + batch_size]
            waveforms = [perturbation.apply(read_audio(path)) for _, (path, perturbation) in some]
            codes = [row.tolist() for row in tokenizer.encode(waveforms)]
            features = whisper.encode(waveforms, batch_size) if whisper is not None else [None] * len(some)
            keys = [key for key, _ in some]
            store.add(list(zip(keys, codes, features, strict=True)))
            bar.advance(task, len(some))
    log.info("encoded %d recordings into %s", len(pending), store.folder)
