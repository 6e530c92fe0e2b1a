"""Dropout whose masks are a function of where in the training it acts, and of nothing else."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from kimi_audio_ft.lora.adapter import stable_seed


class Place:
    """Where an adapter's training stands: what the masks of all its layers are drawn from.

    length: padded positions of its own micro-batch; beyond it stands what a longer neighbour made necessary.
    """

    def __init__(self) -> None:
        self.seed, self.length = 0, 0
        self._generators: dict[torch.device, torch.Generator] = {}

    def at(self, seed: int, epoch: int, number: int, length: int) -> None:
        """Move to a micro-batch of an epoch."""
        self.seed, self.length = stable_seed("dropout", seed, epoch, number), length

    def generator(self, layer: str, device: torch.device) -> torch.Generator:
        """A generator that always starts the same in this micro-batch and layer."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device].manual_seed(stable_seed(self.seed, layer))


class SeededDropout(nn.Module):
    """Stands in for ``nn.Dropout`` in front of an update.

    PyTorch's own draws from one stream for the whole process, so a mask would depend on every draw before it: on the
    neighbours in a pack, on ranks and, when activations are recomputed, on whether somebody winds the stream back. Here
    the generator is seeded anew for every call, from the seed, the epoch, the number of the micro-batch and the layer.
    """

    def __init__(self, p: float, layer: str, place: Place) -> None:
        super().__init__()
        self.p, self.layer, self.place = p, layer, place
        self.positions = layer.startswith("model.")  # the Whisper encoder's rows are pieces of 30 s

    def forward(self, x: Tensor) -> Tensor:
        """Zero entries of ``[rows, positions, width]`` (or ``[rows, width]``) and scale up the others."""
        if not self.training:
            return x
        shape = list(x.shape)
        if self.positions and x.ndim == 3:
            shape[1] = min(shape[1], self.place.length)
        kept = torch.empty(shape, dtype=torch.bool, device=x.device)
        kept.bernoulli_(1 - self.p, generator=self.place.generator(self.layer, x.device))
        if shape != list(x.shape):
            kept = nn.functional.pad(kept, (0, 0, 0, x.shape[1] - shape[1]))  # padding reaches no loss
        return x * kept / (1 - self.p)


def seed_dropout(model: PeftModel, adapter: str) -> Place:
    """Replace an adapter's dropout in every layer; the returned place decides their masks."""
    place = Place()
    tuned: Any = model.base_model.model
    for name, layer in tuned.named_modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_dropout:
            plain = layer.lora_dropout[adapter]
            if isinstance(plain, nn.Dropout):
                layer.lora_dropout[adapter] = SeededDropout(plain.p, name, place)
    return place
