"""Packs: several PEFT adapters trained over one frozen base in the same batch, with reproducible dropout.

PEFT creates, seeds, saves and merges the adapters. A pack replaces only the forward of PEFT's LoRA layers, which in
training mode apply one adapter to the whole batch; in a pack every member has its own block of rows.

    rows of the batch     | a a | b b b | c |     A member's rows pass through the base and its own update only.

slice: PEFT's own forward on each member's block. ``Pack.equals_alone`` says whether the result is PEFT's bit for bit.
batched: the updates of all members as two batched matrix products, with ranks zero-padded. Fewer, larger kernels.
Where the model is ``fused``, layers over a bfloat16 base are computed by ``lora.fused`` in either form.
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

from kimi_audio_ft.lora.adapter import stable_seed
from kimi_audio_ft.lora.fused import FusedUpdates, takes
from kimi_audio_ft.lora.masks import column_keys, kept, place_keys
from kimi_audio_ft.lora.update import output_of, updated
from kimi_audio_ft.runtime.reproducible import rows_are_independent

DISPATCHES = ("slice", "batched")
BIT_FOR_BIT, WITHIN_ROUNDING = "bit for bit", "within rounding"


@dataclass(frozen=True)
class Share:
    """One member's part of a batch: number of rows (of positions, where they are laid out flat), of audio codes (rows
    of the adaptor) and of supervised positions (``answers``, rows of the heads).
    """

    name: str
    rows: int
    audio: int
    answers: int


class Pack:
    """Routes every member's rows through its own adapter, until closed."""

    def __init__(self, model: PeftModel, names: Sequence[str], dispatch: str) -> None:
        assert dispatch in DISPATCHES, dispatch
        self.names, self.dispatch, self.shares = list(names), dispatch, list[Share]()
        tuned: Any = model.base_model.model
        configs: Any = model.peft_config
        self.rank = max(configs[name].r for name in names)
        self.adapts_embedding = False
        self._patched: list[nn.Module] = []
        self._common: list[Tensor] = []  # weights of products over the rows of all members
        forward = _slice_forward if dispatch == "slice" else _batched_forward
        self._fused = FusedUpdates(model, names) if tuned.fused else None
        heads, last = dict(tuned.named_children()), f"model.layers.{len(tuned.model.layers) - 1}."
        for name, layer in tuned.named_modules():
            if type(layer) is nn.Linear and name.startswith("model.") and ".lora_" not in name:
                self._common.append(layer.weight)
            if isinstance(layer, LoraLayer):
                assert type(layer) is Linear and not layer.lora_variant, f"{name} cannot be packed; see why_solo"
                self.adapts_embedding |= _kind(name) == "audio"
                if self._fused is not None and takes(layer, names):
                    vars(layer)["passing"] = partial(_fused, layer, self, self._fused, _kind(name))
                    self._patch(layer, partial(output_of, layer))
                else:
                    self._patch(layer, partial(forward, layer, self, _kind(name)))
            elif type(layer) is nn.Linear and dispatch == "slice" and (name in heads or _is_last(name, last)):
                # A block may have few answers: on AMD a product of up to three rows sums in another order than a larger
                # one, and in bfloat16 a head's gradient depends on the number of rows on other processors too.
                self._patch(layer, partial(_linear_in_shares, layer, self))

    def _patch(self, layer: nn.Module, forward: Callable[..., Tensor]) -> None:
        layer.forward = forward
        self._patched.append(layer)

    def close(self) -> None:
        """Restore the layers' own forward."""
        for layer in self._patched:
            del layer.forward
            vars(layer).pop("passing", None)
        self._patched.clear()
        if self._fused is not None:
            self._fused.close()

    def equals_alone(self) -> str:
        """Agreement with adapters trained alone on the same batches, by form, dtype and processor."""
        exact = self.dispatch == "slice" and self._fused is None and rows_are_independent(self._common)
        return BIT_FOR_BIT if exact else WITHIN_ROUNDING

    def sizes(self, kind: str, x: Tensor) -> list[int]:
        """Lengths of the members' blocks in the first dimension of a layer's input."""
        return [getattr(share, "answers" if kind == "rows" and x.ndim == 2 else kind) for share in self.shares]


def _kind(layer: str) -> str:
    """The unit of the first dimension of a layer's input, a field of ``Share``."""
    if layer.startswith("model.vq_adaptor."):
        return "audio"
    return "rows" if ".layers." in layer or ".mimo_layers." in layer else "answers"


def _is_last(name: str, last: str) -> bool:
    """Whether a frozen linear is of the last layer, which computes answers only behind its attention."""
    return name.startswith(last) and ".lora_" not in name


def _linear_in_shares(layer: nn.Linear, pack: Pack, x_NI: Tensor) -> Tensor:
    if x_NI.ndim == 3:
        return nn.functional.linear(x_NI, layer.weight, layer.bias)
    parts = x_NI.split(pack.sizes("answers", x_NI))
    return torch.cat([nn.functional.linear(part, layer.weight, layer.bias) for part in parts])


def _slice_forward(layer: Any, pack: Pack, kind: str, x: Tensor) -> Tensor:
    """PEFT's forward, block by block; by ``split`` rather than slices, as its gradient is one cat."""
    base = _linear_in_shares(layer.base_layer, pack, x) if kind == "answers" else layer.base_layer(x)
    sizes = pack.sizes(kind, x)
    blocks = []
    for share, y, own in zip(pack.shares, base.split(sizes), x.split(sizes), strict=True):
        name = share.name
        if name in layer.lora_A:
            y = updated(layer, name, y, own)
        blocks.append(y)
    return torch.cat(blocks)


def _fused(layer: Any, pack: Pack, fused: FusedUpdates, kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    return fused.passing(layer, [share.name for share in pack.shares], pack.sizes(kind, x), x)


def _batched_forward(layer: Any, pack: Pack, kind: str, x: Tensor) -> Tensor:
    """The updates of all members in two batched products; blocks of unequal length use the slice form."""
    sizes = pack.sizes(kind, x)
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
    """Both factors of every member, ranks zero-padded; all zeros for a member without an update of this layer."""
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


class DropoutSeed:
    """Seed of an adapter's dropout masks in one micro-batch.

    length: padded positions of the adapter's own micro-batch; a pack may pad it further. answers: row and position of
    everything that it supervises; flat: of all that is computed, where positions are laid out flat. drops: whether the
    adapter has any dropout.
    samples, codes: numbers of the samples of a pass, and the places of its audio codes, on a GPU, whose masks are made
    by place (``lora.masks``); a CPU draws them, micro-batch by micro-batch.
    """

    def __init__(self) -> None:
        self.seed, self.length, self.rows, self.drops = 0, 0, 0, False
        self.answers: tuple[Tensor, Tensor] | None = None
        self.flat: tuple[Tensor, Tensor] | None = None
        self.samples: Tensor | None = None
        self.codes: Tensor | None = None
        self._generators: dict[torch.device, torch.Generator] = {}
        self._keys: dict[tuple[int, ...], Tensor] = {}
        self._columns: dict[int, Tensor] = {}

    def at(
        self,
        seed: int,
        epoch: int,
        number: int,
        shape: tuple[int, int],
        answers: tuple[Tensor, Tensor] | None = None,
        flat: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take the seed of a micro-batch of ``shape``, padded."""
        self.seed, self.answers, self.flat = stable_seed("dropout", seed, epoch, number), answers, flat
        self.rows, self.length = shape
        self.samples = None

    def by_place(
        self,
        seed: int,
        epoch: int,
        samples_R: Tensor,
        length: int,
        answers: tuple[Tensor, Tensor] | None = None,
        codes_N: Tensor | None = None,
    ) -> None:
        """Take the samples of a pass, by their numbers in the epoch, padded to ``length``."""
        self.seed, self.samples, self.length = stable_seed("dropout", seed, epoch), samples_R, length
        self.answers, self.codes, self.flat = answers, codes_N, None
        self._keys.clear()

    def keys(self, positions: int, pieces: int | None = None) -> Tensor:
        """Keys of positions of the pass's samples; or of so many pieces of 30 s, of a pass that is a micro-batch."""
        wanted = (positions,) if pieces is None else (positions, pieces)
        if wanted not in self._keys:
            samples_R = self.samples
            assert samples_R is not None, "masks by place need samples"
            if pieces is not None:
                samples_R = samples_R[:1] + (torch.arange(1, pieces + 1, device=samples_R.device) << 44)
            self._keys[wanted] = place_keys(self.seed, samples_R, positions)
        return self._keys[wanted]

    def columns(self, width: int, device: torch.device) -> Tensor:
        """Keys of an input's columns."""
        if width not in self._columns:
            self._columns[width] = column_keys(width, device)
        return self._columns[width]

    def generator(self, layer: str, device: torch.device) -> torch.Generator | None:
        """A generator with the same initial state in every call for this micro-batch and layer.

        None on the meta device, which draws no numbers.
        """
        if device.type == "meta":
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device].manual_seed(stable_seed(self.seed, layer))


class SeededDropout(nn.Module):
    """Reproducible dropout before a LoRA update; the mask depends only on seed, epoch, micro-batch and layer.

    ``nn.Dropout`` draws from one stream per process, so that a mask would depend on all earlier draws and thus on the
    other members of a pack, on ranks and on activation checkpointing.
    """

    def __init__(self, p: float, layer: str, seed: DropoutSeed) -> None:
        super().__init__()
        self.p, self.layer, self.seed = p, layer, seed
        self.positions = layer.startswith("model.")  # the Whisper encoder's rows are pieces of 30 s
        self.inside = self.positions and _kind(layer) == "rows"
        self._key = stable_seed(layer) % 2**32 - 2**31

    def forward(self, x: Tensor) -> Tensor:
        """Zero random entries of ``[rows, positions, width]`` (or ``[rows, width]``) and rescale the others."""
        return x * self.kept(x) / (1 - self.p) if self.training else x

    def kept(self, x: Tensor) -> Tensor:
        """The mask of ``x`` in this micro-batch: true where an entry is kept."""
        if self.seed.samples is not None:
            return kept(self._places(x), self.seed.columns(x.shape[-1], x.device), self._key, self.p)
        shape, chosen = list(x.shape), None
        if self.inside and x.ndim == 2:  # the last layer's answers, of a mask that is drawn for all positions
            chosen = self.seed.answers
            assert chosen is not None, "positions are selected by an answer's mask"
        elif self.inside:
            chosen = self.seed.flat
        if chosen is not None:
            shape = [self.seed.rows, self.seed.length, x.shape[-1]]
        elif self.positions and x.ndim == 3:
            shape[1] = min(shape[1], self.seed.length)
        drawn = torch.empty(shape, dtype=torch.bool, device=x.device)
        drawn.bernoulli_(1 - self.p, generator=self.seed.generator(self.layer, x.device))
        if chosen is not None:
            return drawn[chosen].view(x.shape)
        if shape != list(x.shape):
            drawn = nn.functional.pad(drawn, (0, 0, 0, x.shape[1] - shape[1]))  # padding reaches no loss
        return drawn

    def _places(self, x: Tensor) -> Tensor:
        """Keys of ``x``'s rows, all its dimensions but the last."""
        seed = self.seed
        if x.ndim == 3:
            return seed.keys(x.shape[1]) if self.positions else seed.keys(x.shape[1], pieces=len(x))
        keys_RS = seed.keys(seed.length)
        if self.positions and _kind(self.layer) == "audio":
            assert seed.codes is not None, "an adapted adaptor's rows are those of audio codes"
            return keys_RS.flatten().index_select(0, seed.codes)
        assert seed.answers is not None, "positions are selected by an answer's mask"
        return keys_RS[seed.answers]


def seed_dropout(model: PeftModel, adapter: str) -> DropoutSeed:
    """Replace an adapter's dropout in every layer; the returned seed determines the masks."""
    seed = DropoutSeed()
    tuned: Any = model.base_model.model
    for name, layer in tuned.named_modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_dropout:
            plain = layer.lora_dropout[adapter]
            if isinstance(plain, nn.Dropout):
                layer.lora_dropout[adapter] = SeededDropout(plain.p, name, seed)
                seed.drops = True
    return seed
