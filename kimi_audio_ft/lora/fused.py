"""Updates in the base's format, for a GPU: few operations, with float32 masters.

Beside a bfloat16 base PEFT casts a layer's input to float32, drops and rescales it in three operations, multiplies,
scales, adds and casts back, all at full width. Here the factors of all layers are copied to the base's format at once,
the scale and dropout's 1 / (1 - p) with them, and an update is added to the base's output by the second product itself.
Gradients are summed over micro-batches in the float32 masters. A single adapter is a pack of one.

Shape suffixes: M rows, I inputs, O outputs, K adapters, R the largest rank (others are zero-padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear
from torch.optim.optimizer import register_optimizer_step_post_hook


@dataclass(frozen=True)
class Blocks:
    """The adapters whose rows a layer's input has, by number, and their rows; count: adapters in stacked factors."""

    members: Sequence[int]
    rows: Sequence[int]
    count: int

    @property
    def even(self) -> bool:
        """Whether one batched product serves all."""
        return self.count > 1 and list(self.members) == list(range(self.count)) and len(set(self.rows)) == 1

    def product(self, x_MA: Tensor, w_KAB: Tensor) -> Tensor:
        """Every row times its own adapter's factor, ``[M, B]``."""
        if self.even:
            return torch.bmm(self._apart(x_MA), w_KAB).flatten(0, 1)
        parts = [x @ w_KAB[k] for k, x in zip(self.members, x_MA.split(self.rows), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def add_product(self, y_MB: Tensor, x_MA: Tensor, w_KAB: Tensor) -> None:
        """Add ``product`` to ``y`` in place."""
        if self.even:
            self._apart(y_MB).baddbmm_(self._apart(x_MA), w_KAB)
            return
        for k, y, x in zip(self.members, y_MB.split(self.rows), x_MA.split(self.rows), strict=True):
            y.addmm_(x, w_KAB[k])

    def outer(self, x_MA: Tensor, y_MB: Tensor) -> Tensor:
        """Sum over every adapter's own rows of ``x.T y``, ``[K, A, B]``; 0 for an adapter without rows."""
        if self.even:
            return torch.bmm(self._apart(x_MA).mT, self._apart(y_MB))
        if self.count == 1:
            return (x_MA.t() @ y_MB).unsqueeze(0)
        sums = x_MA.new_zeros(self.count, x_MA.shape[1], y_MB.shape[1])
        for k, x, y in zip(self.members, x_MA.split(self.rows), y_MB.split(self.rows), strict=True):
            torch.mm(x.t(), y, out=sums[k])
        return sums

    def _apart(self, x_MA: Tensor) -> Tensor:
        return x_MA.view(self.count, -1, x_MA.shape[1])


class _Master:
    """A float32 factor of one adapter, and the part of a stack in the base's format that is its copy."""

    def __init__(self, layer: Any, name: str, up: bool, stack: int, copy: Tensor, place: tuple[Any, ...]) -> None:
        self.layer, self.name, self.up, self.stack, self.copy, self.place = layer, name, up, stack, copy, place
        self.parameter: nn.Parameter = (layer.lora_B if up else layer.lora_A)[name].weight

    def scale(self) -> float:
        """All that multiplies an update: dropout's 1 / (1 - p) while training, too."""
        dropout = self.layer.lora_dropout[self.name]
        return float(self.layer.scaling[self.name]) / (1 - dropout.p if _drops(dropout) else 1.0)


class FusedUpdates:
    """Computes the layers of adapters that it ``takes`` in the base's format, until closed."""

    def __init__(self, model: PeftModel, names: Sequence[str]) -> None:
        self.names = list(names)
        self._masters: list[_Master] = []
        self._buffers: list[Tensor] = []  # for each layer A [K, R, I] and B [K, O, R]
        self._factors: list[Tensor] = []  # the same, with a gradient while training
        self._numbers: dict[nn.Module, int] = {}
        self._state: Any = None
        tuned: Any = model.base_model.model
        for layer in tuned.modules():
            if takes(layer, self.names):
                self._add(layer)
        renewing = tuned.register_forward_pre_hook(lambda *_: self._renew())
        stepped = register_optimizer_step_post_hook(lambda *_: self._forget())
        self._hooks = [renewing, stepped]

    def close(self) -> None:
        """Renew no factors any more, and free them."""
        for hook in self._hooks:
            hook.remove()
        self._factors.clear()
        self._buffers.clear()

    def passing(self, layer: Any, names: Sequence[str], sizes: Sequence[int], x: Tensor) -> tuple[Tensor, Tensor]:
        """``x``, for the next layer that reads it, and the layer's output with the updates of these adapters.

        Each adapter has ``sizes`` rows of the first dimension. Along a chain of layers the gradient of their common
        input is summed by the products themselves.
        """
        if self._state is None:  # outside the model's forward
            self._renew()
        number = self._numbers[layer]
        down_KRI, up_KOR = self._factors[2 * number : 2 * number + 2]
        each = x.shape[1] if x.ndim == 3 else 1
        members = [self.names.index(name) for name in names]
        blocks = Blocks(members, [each * size for size in sizes], len(self.names))
        kept = _kept(layer, names, sizes, x) if self._state[0] else None
        frozen = layer.base_layer
        given = (frozen.weight, frozen.bias, down_KRI, up_KOR, kept, blocks)
        if not torch.is_grad_enabled():
            return x, _output(x, *given)[0]
        passed, y = _Updated.apply(x, *given)
        return passed if x.requires_grad else x, y

    def _add(self, layer: Any) -> None:
        weight, present = layer.base_layer.weight, [name for name in self.names if name in layer.lora_A]
        rank, count = max(layer.r[name] for name in present), len(self.names)
        down_KRI = weight.new_zeros(count, rank, weight.shape[1])
        up_KOR = weight.new_zeros(count, weight.shape[0], rank)
        self._numbers[layer] = len(self._numbers)
        for name in present:
            k, own = self.names.index(name), layer.r[name]
            places: tuple[Any, Any] = (k, slice(own)), (k, slice(None), slice(own))
            for up, (buffer, place) in enumerate(zip((down_KRI, up_KOR), places, strict=True)):
                stack = len(self._buffers) + up
                self._masters.append(_Master(layer, name, bool(up), stack, buffer[place], place))
        self._buffers += [down_KRI, up_KOR]

    @property
    def _ups(self) -> list[_Master]:
        return [master for master in self._masters if master.up]

    def _forget(self) -> None:
        """Have the masters copied again: an optimizer's step need not raise their version."""
        self._state = None

    def _renew(self) -> None:
        """Copy the masters where they have changed, and make the factors of one forward pass."""
        if not self._masters:
            return
        training = self._masters[0].layer.training
        state = (training, [master.parameter._version for master in self._masters])
        if state != self._state:
            self._state = state
            self._copy()
        if torch.is_grad_enabled():
            parameters = [master.parameter for master in self._masters]
            self._factors = list(_Copied.apply(self._buffers, self._masters, *parameters))
        else:
            self._factors = self._buffers

    @torch.no_grad()
    def _copy(self) -> None:
        ups, downs = self._ups, [master for master in self._masters if not master.up]
        scaled = torch._foreach_mul([up.parameter for up in ups], [up.scale() for up in ups])
        torch._foreach_copy_([master.copy for master in (*ups, *downs)], [*scaled, *(d.parameter for d in downs)])


def takes(layer: Any, names: Sequence[str]) -> bool:
    """Whether it is a plain LoRA layer of these adapters, over a linear in another format than their own float32."""
    if type(layer) is not Linear or layer.lora_variant or not any(name in layer.lora_A for name in names):
        return False
    frozen, some = layer.base_layer, next(iter(layer.lora_A.values()))
    alike = type(frozen) is nn.Linear and frozen.weight.dtype == torch.bfloat16 and some.weight.dtype == torch.float32
    return alike and not any(layer.lora_bias.get(name) for name in names)


def _drops(dropout: Any) -> bool:
    return bool(dropout.training) and not isinstance(dropout, nn.Identity)


def _kept(layer: Any, names: Sequence[str], sizes: Sequence[int], x: Tensor) -> Tensor | None:
    """Dropout's masks of all adapters, ``[M, I]``; None: nothing is dropped."""
    own: list[Any] = [layer.lora_dropout[name] if name in layer.lora_A else nn.Identity() for name in names]
    if not any(map(_drops, own)):
        return None
    parts = [
        dropout.kept(rows) if _drops(dropout) else torch.ones_like(rows, dtype=torch.bool)
        for dropout, rows in zip(own, x.split(list(sizes)), strict=True)
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(-1, x.shape[-1])


def _output(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down_KRI: Tensor,
    up_KOR: Tensor,
    kept: Tensor | None,
    blocks: Blocks,
) -> tuple[Tensor, Tensor]:
    """A layer's output, and the update's low rank ``[M, R]``."""
    y, rows = linear(x, weight, bias), x.reshape(-1, x.shape[-1])
    low = blocks.product(rows if kept is None else rows * kept, down_KRI.mT)
    blocks.add_product(y.view(-1, y.shape[-1]), low, up_KOR.mT)
    return y, low


class _Updated(Function):
    """``x`` and ``W x + up(down(dropout(x)))``; of what is as wide it keeps x, which layers share, and the mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        weight, _, down, up, kept, ctx.blocks = given
        y, low = _output(x, *given)
        ctx.save_for_backward(x, low, weight, down, up, kept)
        ctx.set_materialize_grads(False)
        return x.view_as(x), y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        passed, grad = grads
        x, low, weight, down, up, kept = ctx.saved_tensors
        blocks: Blocks = ctx.blocks
        grad, rows = grad.reshape(-1, weight.shape[0]), x.reshape(-1, x.shape[-1])
        grad_low, grad_up = blocks.product(grad, up), blocks.outer(grad, low)
        grad_down = blocks.outer(grad_low, rows if kept is None else rows * kept)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight if passed is None else passed.view(rows.shape).addmm_(grad, weight)
            if kept is None:
                blocks.add_product(grad_x, grad_low, down)
            else:
                grad_x.addcmul_(blocks.product(grad_low, down), kept)
            grad_x = grad_x.view(x.shape)
        return grad_x, None, None, grad_down, grad_up, None, None


class _Copied(Function):
    """Copies of all masters; their gradients back in float32, at once."""

    @staticmethod
    def forward(ctx: Any, buffers: list[Tensor], masters: list[_Master], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.masters, ctx.scales = masters, {master: master.scale() for master in masters if master.up}
        ctx.set_materialize_grads(False)
        return tuple(buffer.detach() for buffer in buffers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        parts = {master: grads[master.stack][master.place] for master in ctx.masters if grads[master.stack] is not None}
        found = {master: torch.empty_like(master.parameter) for master in parts}
        torch._foreach_copy_(list(found.values()), list(parts.values()))
        ups = [master for master in found if master.up]
        torch._foreach_mul_([found[master] for master in ups], [ctx.scales[master] for master in ups])
        return None, None, *(found.get(master) for master in ctx.masters)
