"""Synthetic speech for the base: waveforms, transcripts and the sounds that the encoders learn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pypinyin import Style, lazy_pinyin
from torch import Tensor

from kimi_audio_ft.demo.corpus import render
from kimi_audio_ft.demo.mandarin import Sentence
from kimi_audio_ft.demo.sentences import generate
from kimi_audio_ft.demo.speech import Synthesizer, Waveform, draw_snr_db, draw_speaker
from kimi_audio_ft.model.audio_frontend import log_mel


@dataclass
class Clip:
    """One synthetic recording: its name, 16-bit samples at 16 kHz, its transcript and sounds (initials and finals)."""

    key: str
    samples: np.ndarray
    text: str
    sounds: list[str]

    @property
    def waveform(self) -> Tensor:
        """``[num_samples]`` float32 in [-1, 1]."""
        return torch.from_numpy(self.samples.astype(np.float32) / 32768)

    def mel(self) -> Tensor:
        """Log-mel ``[128, frames]`` in float16, with two frames of the zeros that follow."""
        return log_mel(torch.nn.functional.pad(self.waveform, (0, 400)).unsqueeze(0))[0].half()


def make_clips(domain: str, count: int, seed: int) -> list[Clip]:
    """Clips of one domain, one after another."""
    return [
        Clip(
            f"{domain}-{seed}-{index}",
            (waveform * 32767).astype(np.int16),
            sentence.text,
            sounds_of(sentence.spoken),
        )
        for index, (sentence, waveform) in enumerate(iterate_speech(domain, count, seed))
    ]


def iterate_speech(domain: str, count: int, seed: int) -> Iterator[tuple[Sentence, Waveform]]:
    """``count`` sentences of ``domain`` with waveforms, float32 (samples,) at 16 kHz, by random speakers.

    Item i depends only on the domain, the seed and i. ConfigError: an unknown domain.
    """
    synthesizer = Synthesizer()
    for index, sentence in enumerate(generate(domain, count, seed)):
        rng = random.Random(f"{domain} {seed} {index}")
        speaker, snr_db = draw_speaker(domain, rng), draw_snr_db(domain, rng)
        yield sentence, render(synthesizer, sentence, speaker, snr_db, (seed, index))


def sounds_of(spoken: str) -> list[str]:
    """Initials and toned finals of the spoken form; other characters stand for themselves."""
    words = spoken.replace(" ", "")
    sounds: list[str] = []
    initials = lazy_pinyin(words, style=Style.INITIALS, strict=False)
    finals = lazy_pinyin(words, style=Style.FINALS_TONE3, strict=False)
    for initial, final in zip(initials, finals, strict=True):
        if initial == final:  # not Chinese: the text itself, letter by letter
            sounds += [letter.upper() for letter in initial if letter.isalnum()]
        else:
            sounds += [sound for sound in (initial, final) if sound]
    return sounds


def pad_mels(mels: list[Tensor], frames: int) -> Tensor:
    """``[B, 128, frames]`` float32: what ``log_mel`` of the zero-padded clips would be.

    Silence sits at the floor, 8 decades below the clip's maximum, which is 2 below it after the final scaling.
    """
    batch = torch.stack([mel.float().max() - 2.0 for mel in mels])[:, None, None].repeat(1, mels[0].shape[0], frames)
    for row, mel in zip(batch, mels, strict=True):
        row[:, : mel.shape[1]] = mel[:, :frames].float()
    return batch
