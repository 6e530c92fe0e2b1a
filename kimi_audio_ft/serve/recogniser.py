"""Uploaded recordings to texts: cut into pieces as by ``transcribe``, which the engine decodes.

An upload lies in a temporary file, without its name, while it is cut; nothing of it is kept in the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

from kimi_audio_ft.base import Base, find_adapter, require_base
from kimi_audio_ft.config.serve import BASE, ServeConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.manifest.audio import AudioError, open_recording, read_audio
from kimi_audio_ft.serve.engine import Job
from kimi_audio_ft.store.digests import sha256_of
from kimi_audio_ft.transcribe.pieces import Cutter, Heard
from kimi_audio_ft.transcribe.prompts import prompt_of
from kimi_audio_ft.transcribe.sources import Source


class Refused(UserError):
    """A request that cannot be answered, by what it asks for. option: the field at fault."""

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True)
class Model:
    """What requests ask for by name. adapter: its folder; None: the base alone. prompt: that it was trained with."""

    name: str
    adapter: Path | None
    prompt: str


@dataclass(frozen=True)
class Wish:
    """What a request wants beside a text.

    temperature: None is that of the options. words: names and terms, put behind the prompt.
    """

    temperature: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Recogniser:
    """The base with its adapters, and how recordings are put to it."""

    config: ServeConfig
    base: Base
    models: Mapping[str, Model]
    cutter: Cutter

    @classmethod
    def of(cls, config: ServeConfig, recommended: Mapping[str, str | None]) -> Recogniser:
        """The recogniser that the options name, without any weight read.

        Args:
            recommended: further adapters by name; None is the base alone.
        """
        base = Base(config.model, config.data.features, threads=config.threads)
        models = {}
        for name, adapter in {BASE: None, **config.adapters, **recommended}.items():
            found = find_adapter(adapter)
            folder = found[1] if found else None
            if folder is not None:
                require_base(base, folder, config.any_base)
            models[name] = Model(name, folder, prompt_of(config.data.prompt, folder))
        cutter = Cutter(config.cut, config.max_seconds, kept=False)
        cutter.require_network()
        return cls(config, base, models, cutter)

    def jobs(self, upload: BinaryIO, name: str, model: Model, wish: Wish) -> tuple[Heard, list[Job]]:
        """A recording with a job for each of its pieces; Refused: it cannot be read, or is too long."""
        with tempfile.NamedTemporaryFile(prefix="upload-") as file:
            copyfileobj(upload, file)
            file.flush()
            path = Path(file.name)
            try:
                heard = self._heard(path, name)
                waveforms = [read_audio(path, piece.part) for piece in heard.pieces]
            except AudioError as error:
                raise Refused(f"{name}: {error.problem}", "file") from None
        prompt = f"{model.prompt}\n{wish.words}" if wish.words else model.prompt
        requests = self.requests(wish.temperature)
        jobs = [
            Job(piece.key, number, waveform, model.adapter, prompt, requests)
            for number, (piece, waveform) in enumerate(zip(heard.pieces, waveforms, strict=True))
        ]
        return heard, jobs

    def _heard(self, path: Path, name: str) -> Heard:
        seconds, most = open_recording(path).seconds, self.config.max_minutes
        if seconds > 60 * most:
            rule = f"lasts {seconds / 60:.3g} minutes; the server takes at most {most:g} (max_minutes)"
            raise Refused(f"{name}: {rule}", "file")
        heard = self.cutter.cut(Heard(Source(path, name), seconds, sha256_of(path)))
        if heard.problem is not None:
            raise heard.problem
        return heard

    def requests(self, temperature: float | None) -> Sequence[DecodingRequest]:
        """The repeats of the decoding setting, at a temperature of the request's own if it has one."""
        setting = self.config.decoding
        if temperature is not None:
            setting = replace(setting, text_temperature=temperature)
        return DecodingRequest(setting, self.config.seed).repeats(vocabulary=self.base.tokens.end)
