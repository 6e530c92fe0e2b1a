"""Random conversations of one audio, laid out as the product lays out a recording to transcribe."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities import move_data_to_device

from kimi_audio_ft.data.dataset import Sample, make_batch
from kimi_audio_ft.manifest.conversation import BLANK, layout_conversation
from kimi_audio_ft.model import KimiAudioConfig
from kimi_audio_ft.model.audio_frontend import SAMPLE_RATE, SAMPLES_PER_TOKEN
from kimi_audio_ft.model.text_tokenizer import SPECIAL_TOKENS


@dataclass(frozen=True)
class Clip:
    """Lengths of a conversation in tokens; the default is a 10 s clip in 180 positions.

    The 8 positions besides are the role starts, media ids, answer mark, message ends and the answer's own end.
    """

    prompt: int = 8
    codes: int = 125
    answer: int = 39

    @property
    def positions(self) -> int:
        """Positions of the whole conversation."""
        return self.prompt + self.codes + self.answer + 8

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.codes * SAMPLES_PER_TOKEN / SAMPLE_RATE


def mixed_clips(count: int, seed: int = 0) -> list[Clip]:
    """Recordings of speech, log-normal around 6 s, of 1 to 30 s, with four tokens of answer a second."""
    rng = random.Random(seed)
    lengths = [min(30.0, max(1.0, rng.lognormvariate(math.log(6.0), 0.6))) for _ in range(count)]
    return [Clip(codes=round(12.5 * length), answer=round(4 * length)) for length in lengths]


class NumberTokenizer:
    """Text is a row of ids ("17 4 250"), so that a random answer has exactly the length asked for."""

    def __init__(self, config: KimiAudioConfig) -> None:
        self.first_special = config.num_base_tokens
        self.special_tokens = {name: number for number, name in enumerate(SPECIAL_TOKENS, start=self.first_special)}
        self.pad_id = max(self.special_tokens.values())

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids that the text spells."""
        return [int(word) for word in text.split()]

    @property
    def blank(self) -> int:
        """The audio stream's id at positions of text."""
        return self.special_tokens[BLANK]


def random_samples(
    config: KimiAudioConfig, clips: list[Clip], seed: int = 0, for_generation: bool = False
) -> list[Sample]:
    """One conversation for each clip, with float32 features; ``for_generation`` ends where the answer begins."""
    tokenizer, rng = NumberTokenizer(config), random.Random(seed)
    generator = torch.Generator().manual_seed(seed)

    def text(count: int) -> str:
        return " ".join(str(rng.randrange(tokenizer.first_special)) for _ in range(count))

    samples = []
    for index, clip in enumerate(clips):
        codes = [rng.randrange(config.kimia_token_offset, config.vocab_size) for _ in range(clip.codes)]
        conversation: list[dict[str, Any]] = [
            {"role": "user", "message_type": "text", "content": text(clip.prompt)},
            {"role": "user", "message_type": "audio", "audio_tokens": codes},
            {"role": "assistant", "message_type": "text", "content": text(clip.answer)},
        ]
        layout = layout_conversation(conversation, tokenizer, "understanding", for_generation)
        features = torch.randn(clip.codes, config.kimia_adaptor_input_dim, generator=generator)
        samples.append(Sample(str(index), layout, [features]))
    return samples


def batch_of(
    config: KimiAudioConfig, samples: list[Sample], device: torch.device, dtype: torch.dtype, left: bool = False
) -> dict[str, Any]:
    """``make_batch`` on a device, its features in the base's number format as the feature store keeps them."""
    batch = make_batch(samples, NumberTokenizer(config).pad_id, left=left)
    batch["inputs"]["audio_features"] = [rows.to(dtype) for rows in batch["inputs"]["audio_features"]]
    return move_data_to_device(batch, device)


def random_waveforms(count: int, seconds: float, seed: int = 0) -> list[torch.Tensor]:
    """Noise, 16 kHz float32 on the CPU, as a reader of recordings returns it."""
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(round(seconds * SAMPLE_RATE), generator=generator) for _ in range(count)]
