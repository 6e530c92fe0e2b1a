"""Packs: several PEFT adapters trained together over one frozen base.

PEFT creates, seeds, saves and merges the adapters, as always. A pack replaces only what happens inside each of PEFT's
LoRA layers, which in training mode know one adapter for the whole batch: here every member has rows of its own, one
block after another.

    rows of the batch     | a a | b b b | c |     A member's rows meet the base and its own update, nothing else.

slice: for each member the operations of PEFT's own forward on its block. On a CPU the result is PEFT's bit for bit.
batched: the updates of all members as two batched matrix products, with ranks padded by zeros. Fewer, larger kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from kimi_audio_ft.config.train import SHARDED, LoraConfig, ModelConfig, TrainerConfig
from kimi_audio_ft.lora.adapter import stable_seed
from kimi_audio_ft.lora.targets import needs_whisper

DISPATCHES = ("slice", "batched")


@dataclass(frozen=True)
class Share:
    """What is one member's in a batch: its rows, and of what is not arranged in rows, the part that comes from them.

    audio: audio codes, which are rows of the adaptor. answers: supervised positions, which are rows of the heads.
    """

    name: str
    rows: int
    audio: int
    answers: int


def why_solo(
    lora: LoraConfig, model: ModelConfig, trainer: TrainerConfig | None = None, targets: Sequence[str] = ()
) -> str | None:
    """Why an adapter cannot train in a pack, in words for a log; None when it can. Reads no weights.

    Args:
        targets: full paths of the linears that it changes (``Base.targets``), where they are known.
    """
    if lora.use_dora:
        return "lora.use_dora=true: DoRA's update is not a sum that rows can share"
    if model.quantization is not None:
        return f"model.quantization={model.quantization}: PEFT has layers of its own for a base in 4 bits"
    if trainer is not None and trainer.strategy in SHARDED:
        return f"trainer.strategy={trainer.strategy}: a sharded base trains one adapter at a time"
    if needs_whisper(targets):
        return f"lora.target_modules={lora.target_modules}: an adapted Whisper encoder cannot be computed once for all"
    return None


class Pack:
    """Sends every member's rows through its own adapter, until closed.

    rank: what ranks are padded to in the batched form; None is the largest one of the members. With a fixed rank no
    member can notice, not even in the last bit, who its neighbours are.
    """

    def __init__(self, model: PeftModel, names: Sequence[str], dispatch: str, rank: int | None = None) -> None:
        assert dispatch in DISPATCHES, dispatch
        self.names, self.shares = list(names), list[Share]()
        tuned: Any = model.base_model.model
        configs: Any = model.peft_config
        self.rank = rank or max(configs[name].r for name in names)
        self.adapts_embedding = False
        self._patched: list[nn.Module] = []
        forward = _slice_forward if dispatch == "slice" else _batched_forward
        heads = dict(tuned.named_children())
        for name, layer in tuned.named_modules():
            if isinstance(layer, LoraLayer):
                assert type(layer) is Linear and not layer.lora_variant, f"{name} cannot be packed; see why_solo"
                self.adapts_embedding |= _kind(name) == "audio"
                self._patch(layer, partial(forward, layer, self, _kind(name)))
            elif name in heads and isinstance(layer, nn.Linear) and dispatch == "slice":
                # A matrix product of three rows or less adds up in another order than a larger one.
                self._patch(layer, partial(_linear_in_shares, layer, self))

    def _patch(self, layer: nn.Module, forward: Callable[..., Tensor]) -> None:
        layer.forward = forward
        self._patched.append(layer)

    def close(self) -> None:
        """Give the layers their own forward back."""
        for layer in self._patched:
            del layer.forward
        self._patched.clear()

    def sizes(self, kind: str) -> list[int]:
        """Lengths of the members' blocks in the first dimension of a layer's input."""
        return [getattr(share, kind) for share in self.shares]


def _kind(layer: str) -> str:
    """What the first dimension of a layer's input counts (a field of ``Share``)."""
    if layer.startswith("model.vq_adaptor."):
        return "audio"
    return "rows" if ".layers." in layer or ".mimo_layers." in layer else "answers"


def _linear_in_shares(layer: nn.Linear, pack: Pack, x_NI: Tensor) -> Tensor:
    parts = x_NI.split(pack.sizes("answers"))
    return torch.cat([nn.functional.linear(part, layer.weight, layer.bias) for part in parts])


def _slice_forward(layer: Any, pack: Pack, kind: str, x: Tensor) -> Tensor:
    """What PEFT's forward does for one adapter, for each block. ``split`` and not slices: its gradient is one cat."""
    base = layer.base_layer(x)
    sizes = pack.sizes(kind)
    blocks = []
    for share, y, own in zip(pack.shares, base.split(sizes), x.split(sizes), strict=True):
        name = share.name
        if name in layer.lora_A:
            a, b = layer.lora_A[name], layer.lora_B[name]
            own = layer._cast_input_dtype(own, a.weight.dtype)
            y = y + b(a(layer.lora_dropout[name](own))) * layer.scaling[name]
        blocks.append(y.to(base.dtype))
    return torch.cat(blocks)


def _batched_forward(layer: Any, pack: Pack, kind: str, x: Tensor) -> Tensor:
    """The updates of all members in two batched products; blocks of unequal length take the other form."""
    sizes = pack.sizes(kind)
    if len(set(sizes)) > 1:
        return _slice_forward(layer, pack, kind, x)
    base = layer.base_layer(x)
    names = [share.name for share in pack.shares]
    a_KRI, b_KOR = _stacked(layer, names, pack.rank)
    x = x.to(a_KRI.dtype)
    if any(name in layer.lora_A and not isinstance(layer.lora_dropout[name], nn.Identity) for name in names):
        parts = zip(names, x.split(sizes), strict=True)
        x = torch.cat([layer.lora_dropout[name](own) if name in layer.lora_A else own for name, own in parts])
    x_KMI = x.reshape(len(names), -1, x.shape[-1])
    update_KMO = torch.bmm(torch.bmm(x_KMI, a_KRI.transpose(1, 2)), b_KOR.transpose(1, 2))
    return (base + update_KMO.reshape(base.shape)).to(base.dtype)


def _stacked(layer: Any, names: Sequence[str], rank: int) -> tuple[Tensor, Tensor]:
    """Both factors of every member, ranks padded by zeros; a member that leaves the layer alone has zeros only."""
    downs, ups = [], []
    for name in names:
        if name not in layer.lora_A:
            some = next(iter(layer.lora_A.values())).weight
            downs.append(some.new_zeros(rank, layer.in_features))
            ups.append(some.new_zeros(layer.out_features, rank))
            continue
        missing = rank - layer.r[name]
        downs.append(nn.functional.pad(layer.lora_A[name].weight, (0, 0, 0, missing)))
        ups.append(nn.functional.pad(layer.lora_B[name].weight * layer.scaling[name], (0, missing)))
    return torch.stack(downs), torch.stack(ups)


# --- Dropout whose masks are a function of where in the training it acts, and of nothing else.


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
