"""A small random model, and prompts for it."""

from __future__ import annotations

import random

import pytest
import torch

from kimi_audio_ft.data.dataset import Sample
from kimi_audio_ft.manifest.conversation import Layout
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM

VOCABULARY, FIRST_CODE, FEATURES, BLANK = 60, 40, 32, 1


@pytest.fixture(scope="module")
def model() -> KimiAudioForCausalLM:
    """Random, with weights large enough for clear decisions."""
    torch.manual_seed(0)
    config = KimiAudioConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        kimia_mimo_layers=1,
        kimia_mimo_transformer_from_layer_index=1,
        kimia_token_offset=FIRST_CODE,
        kimia_adaptor_input_dim=FEATURES,
        initializer_range=0.3,
    )
    return KimiAudioForCausalLM(config).eval()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Six prompts of very different length, each with an audio but the last."""
    rng, generator = random.Random(4), torch.Generator().manual_seed(4)
    made = []
    for index, codes in enumerate((1, 17, 5, 9, 30, 0)):
        layout = Layout()
        text_ids = [rng.randrange(2, FIRST_CODE) for _ in range(rng.randint(1, 6))]
        layout.extend([BLANK] * len(text_ids), text_ids)
        layout.extend([rng.randrange(FIRST_CODE, VOCABULARY) for _ in range(codes)], [BLANK] * codes, codes=True)
        layout.extend([2], [BLANK])
        rows = [torch.randn(codes, FEATURES, generator=generator)] if codes else []
        made.append(Sample(str(index), layout, rows))
    return made
