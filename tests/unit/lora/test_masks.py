"""Masks of dropout by place: the same on every device, alone and among others, and as random as they must be."""

from __future__ import annotations

import torch

from kimi_audio_ft.lora.masks import column_keys, kept, place_keys
from kimi_audio_ft.lora.pack import DropoutSeed, SeededDropout
from tests.pretend_gpu import PretendedGPUs

CPU = torch.device("cpu")
WIDTH, LENGTH = 512, 40
SAMPLES = torch.tensor([0, 1, 1 << 20, (7 << 20) + 3, 12345])


def mask(samples: torch.Tensor = SAMPLES, length: int = LENGTH, layer: int = 99, seed: int = 5) -> torch.Tensor:
    places = place_keys(seed, samples, length)
    return kept(places, column_keys(WIDTH, samples.device), layer, 0.1)


def test_a_sample_has_its_mask_alone_and_among_others_and_on_every_device() -> None:
    whole = mask()
    for row in range(len(SAMPLES)):
        assert torch.equal(mask(SAMPLES[row : row + 1], length=9)[0], whole[row, :9])
    with PretendedGPUs():
        assert torch.equal(mask(SAMPLES.cuda()).cpu(), whole)


def test_masks_are_as_random_as_dropout_needs() -> None:
    """Right in number by row, column and whole; independent between neighbours, layers, samples and seeds."""
    drops = ~mask().flatten(0, 1)
    assert abs(float(drops.float().mean()) - 0.1) < 0.003
    spread = (0.1 * 0.9) ** 0.5
    for dim, count in ((0, drops.shape[0]), (1, drops.shape[1])):
        means = drops.float().mean(dim)
        assert float((means - 0.1).abs().max()) < 5 * spread / count**0.5
        assert 0.8 < float(means.std()) / (spread / count**0.5) < 1.2
    others = [~mask(layer=-7).flatten(0, 1), ~mask(seed=6).flatten(0, 1), drops.roll(1, 0), drops.roll(1, 1)]
    for other in (*others, drops.roll(LENGTH, 0)):
        assert abs(float((drops & other).float().mean()) - 0.01) < 0.0015


def test_dropout_takes_the_rows_of_answers_and_codes_from_the_mask_of_all() -> None:
    seed, x = DropoutSeed(), torch.ones(5, LENGTH, WIDTH)
    answers, codes = (torch.tensor([0, 4]), torch.tensor([3, 39])), torch.tensor([1, LENGTH + 2])
    seed.by_place(1, 0, SAMPLES, LENGTH, answers, codes)
    inner, adaptor = (
        SeededDropout(0.1, "model.layers.0.mlp.up_proj", seed),
        SeededDropout(0.1, "model.vq_adaptor.x", seed),
    )
    assert torch.equal(inner.kept(x[0, :2]), inner.kept(x)[answers])
    assert torch.equal(adaptor.kept(x[0, :2]), adaptor.kept(x).flatten(0, 1)[codes])
    longer = inner.kept(torch.ones(5, LENGTH + 7, WIDTH))  # beside an adapter with longer samples
    assert torch.equal(longer[:, :LENGTH], inner.kept(x))
    whisper = SeededDropout(0.1, "whisper_model.layers.0.q_proj", seed)
    assert whisper.kept(torch.ones(3, 8, WIDTH)).shape == (3, 8, WIDTH)
