"""Uploaded recordings to texts: cut into pieces as by ``transcribe``, which the queue decodes.

An upload lies in a temporary file, without its name, while it is cut; nothing of it is kept in the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfileobj
from threading import Lock
from typing import BinaryIO

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.prompt import HotwordsConfig
from kimi_audio_ft.config.serve import BASE, RECOMMENDED, ServeConfig
from kimi_audio_ft.config.train import NATIVE, VLLM, VllmConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.manifest.audio import AudioError, Recording, open_recording, waveform_of
from kimi_audio_ft.manifest.hotwords import read_hotwords, require_room, with_words
from kimi_audio_ft.serve.batch_queue import Decoder, Job, RequestRefused
from kimi_audio_ft.serve.by_vllm import ByVllm, positions_needed
from kimi_audio_ft.serve.models import Model, models_of_server, own_models, qwen2_of
from kimi_audio_ft.serve.native import Native
from kimi_audio_ft.serve.vllm_server import VllmServer
from kimi_audio_ft.store.digests import sha256_of
from kimi_audio_ft.transcribe.pieces import Cutter, Heard
from kimi_audio_ft.transcribe.recommended import completed, recommended_trial
from kimi_audio_ft.transcribe.sources import Source


class Room:
    """How much audio may be at work or waiting at a time, in seconds; for requests in several threads."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._left, self._lock = seconds, seconds, Lock()

    @contextmanager
    def taken(self, seconds: float) -> Iterator[None]:
        """Take so much of it to the end of the block; RequestRefused: it is not free now."""
        with self._lock:
            if seconds > self._left:
                waiting = f"{(self._seconds - self._left) / 60:.3g} minutes of audio are at work (max_total_minutes)"
                raise RequestRefused(f"{waiting}; try again", "file", 429, "busy")
            self._left -= seconds
        try:
            yield
        finally:
            with self._lock:
                self._left += seconds


@dataclass(frozen=True)
class RequestOptions:
    """What a request wants beside a text.

    temperature: None is that of the options. words: names and terms, put behind the prompt as in training; without any
    those of the model.
    """

    temperature: float | None = None
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Service:
    """The base with its adapters, and how recordings are put to it. server: of vLLM, if one decodes."""

    config: ServeConfig
    base: Base
    models: Mapping[str, Model]
    cutter: Cutter
    room: Room
    server: VllmServer | None = None

    @classmethod
    def of(cls, config: ServeConfig, overrides: Sequence[str] = ()) -> Service:
        """The service that the options name, without any weight read.

        Args:
            overrides: of the command line (``decoding.repeats=4``): they stand above what the trial of ``sweep`` has.
        """
        named: dict[str, tuple[str | None, ServeConfig]] = {BASE: (None, config)}
        named |= {name: (adapter, config) for name, adapter in config.adapters.items()}
        hotwords: HotwordsConfig | None = None
        if config.sweep is not None:
            adapter, trial = recommended_trial(config.sweep)
            decoded, own = trial.decoding.engine, config.decoding.engine
            if decoded != own:
                print(f"{config.sweep}: decoded by {decoded}; the server decodes with engine={own}", flush=True)
            # Whatever decoded it: the engine is the server's own, and so is its vLLM.
            trial = replace(trial, decoding=replace(trial.decoding, engine=NATIVE, vllm=VllmConfig()))
            of_trial = completed(config, trial, overrides)
            named[RECOMMENDED], hotwords = (adapter, of_trial), trial.prompt
            config = _with_base_of(config, of_trial)
        base = Base(config.model, config.data.features, threads=config.threads)
        server = VllmServer(config.decoding.vllm) if config.decoding.engine == VLLM else None
        models = own_models(base, named) if server is None else models_of_server(base, server, named, config)
        if hotwords is not None:
            models[RECOMMENDED] = _with_hotwords(models[RECOMMENDED], hotwords, base)
        cutter = Cutter(config.cut, config.max_seconds, kept=False)
        cutter.require_network()
        return cls(config, base, models, cutter, Room(60 * config.max_total_minutes), server)

    def decoder(self) -> Decoder:
        if self.server is None:
            return Native(self.base)
        settings = [model.decoding for model in self.models.values()]
        needed = positions_needed(self.config.max_seconds, settings, self.word_positions, self.base.positions)
        return ByVllm(self.base, qwen2_of(self.base), self.server, needed)

    @property
    def word_positions(self) -> int:
        """Positions of the longest list of hot words that a model has."""
        lists = (with_words("", model.words) for model in self.models.values())
        return max(len(self.base.tokenizer.encode(text)) for text in lists)

    def jobs(
        self, upload: BinaryIO, name: str, model: Model, options: RequestOptions, held: ExitStack
    ) -> tuple[Heard, list[Job]]:
        """A recording with a job for each of its pieces.

        Args:
            held: at whose end its part of the room is free again.

        Raises:
            RequestRefused: it cannot be read, or is too long, or too much audio is at work.
        """
        with tempfile.NamedTemporaryFile(prefix="upload-") as file:
            copyfileobj(upload, file)
            file.flush()
            path = Path(file.name)
            try:
                heard, recording = self._heard(path, name, held)
                waveforms = [waveform_of(recording.only(piece.part)) for piece in heard.pieces]
            except AudioError as error:
                said = ". ".join(filter(None, (error.problem, error.remedy)))
                raise RequestRefused(f"{name}: {said}".replace(str(path), name), "file") from None
        prompt = with_words(model.prompt, options.words or model.words)
        requests = self.requests(model, options.temperature)
        jobs = [
            Job(piece.key, number, waveform, model.adapter, prompt, requests)
            for number, (piece, waveform) in enumerate(zip(heard.pieces, waveforms, strict=True))
        ]
        return heard, jobs

    def _heard(self, path: Path, name: str, held: ExitStack) -> tuple[Heard, Recording]:
        """The upload's pieces, and the upload as it was opened, as opening again may have ffmpeg decode it again."""
        most = self.config.max_minutes
        recording = open_recording(path, longest=60 * most)
        seconds = recording.seconds
        if seconds > 60 * most:
            rule = f"lasts longer than the {most:g} minutes that the server takes (max_minutes)"
            raise RequestRefused(f"{name}: {rule}", "file")
        held.enter_context(self.room.taken(seconds))
        heard = self.cutter.cut(Heard(Source(path, name), seconds, sha256_of(path)), recording)
        if heard.problem is not None:
            raise heard.problem
        return heard, recording

    def requests(self, model: Model, temperature: float | None) -> Sequence[DecodingRequest]:
        """The repeats of the model's decoding setting, at a temperature of the request's own if it has one.

        RequestRefused: the engine does not draw at it.
        """
        setting = model.decoding
        if temperature is not None:
            try:
                setting = replace(setting, text_temperature=temperature)
            except ConfigError as error:  # of vLLM
                raise RequestRefused(str(error), "temperature") from None
        return DecodingRequest(setting, model.seed).repeats(vocabulary=self.base.tokens.end)


def _with_hotwords(model: Model, options: HotwordsConfig, base: Base) -> Model:
    """The model with the hot words of its trial; UserError: they cannot be read, or are too many.

    Those that a first text would choose (``prompt.retrieve``) are left out: a request would be decoded twice.
    """
    found = read_hotwords(options)
    if found is None:
        return model
    if options.retrieves:
        print(f"{model.name}: prompt.retrieve is not supported here; only hot words of a request are used", flush=True)
        return model
    require_room(options, base.tokenizer, base.positions, model.prompt)
    print(f"{model.name}: {len(found.words)} hot words, unless a request gives others", flush=True)
    return replace(model, words=found.words)


def _with_base_of(config: ServeConfig, of_trial: ServeConfig) -> ServeConfig:
    """The options with what all models share with the recommended trial; prompt and decoding stay their own."""
    return replace(
        config,
        model=of_trial.model,
        data=replace(config.data, features=of_trial.data.features),
        decoding=replace(config.decoding, batch_size=of_trial.decoding.batch_size),
    )
