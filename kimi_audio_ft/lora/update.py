"""A LoRA layer as PEFT computes it, with fewer visits to the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear

from kimi_audio_ft.lora.fused import FusedUpdates, takes

# Terms of a sum that no processor's products cut into parts (Intel with AVX2 does so from 256 to 384 terms).
_SHORT = 64
# Rows from which a product that adds to what is there does so as a sum after the product would, on AMD too.
_SEVERAL = 4


def updated(layer: Any, name: str, base: Tensor, x: Tensor) -> Tensor:
    """``base``, the frozen layer's output for ``x``, plus an adapter's update, in the format of ``base``."""
    down, up, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    x = layer.lora_dropout[name](layer._cast_input_dtype(x, down.dtype))
    if base.dtype == down.dtype:
        return _Updated.apply(base, x, down, up, scaling)
    return (base + linear(linear(x, down), up) * scaling).to(base.dtype)


@contextmanager
def own_updates(model: PeftModel, name: str) -> Iterator[None]:
    """Compute a single adapter's layers by ``_passing``, where they are plain LoRA, inside the context.

    Where the model is ``fused``, those over a bfloat16 base by ``lora.fused``.
    """
    tuned: Any = model.base_model.model
    fused = FusedUpdates(model, [name]) if tuned.fused else None
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if type(layer) is Linear and name in layer.lora_A and not layer.lora_variant and not layer.lora_bias[name]
    ]
    for layer in layers:
        if fused is not None and takes(layer, [name]):
            layer.passing = partial(_fused, layer, name, fused)
        else:
            layer.passing = partial(_passing, layer, name)
        layer.forward = partial(output_of, layer)
    try:
        yield
    finally:
        if fused is not None:
            fused.close()
        for layer in layers:
            del layer.forward, layer.passing


def _fused(layer: Any, name: str, fused: FusedUpdates, x: Tensor) -> tuple[Tensor, Tensor]:
    return fused.passing(layer, [name], [len(x)], x)


def output_of(layer: Any, x: Tensor) -> Tensor:
    """Output alone of a layer that is computed by its ``passing``."""
    output: Tensor = layer.passing(x)[1]
    return output


def _passing(layer: Any, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """``x``, for the next layer that reads it, and the layer's output.

    Along a chain of layers the gradient of their common input is summed in place, in the order of autograd's own sums.
    Products add to what is there only where their sums are too short for MKL to cut: those of a rank.
    """
    frozen, dropout, scaling = layer.base_layer, layer.lora_dropout[name], layer.scaling[name]
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    alike = type(frozen) is nn.Linear and frozen.weight.dtype == down.dtype == x.dtype
    drops = dropout.training and not isinstance(dropout, nn.Identity)
    if not alike or not _rounds_nothing(scaling) or len(down) > _SHORT or (drops and not hasattr(dropout, "kept")):
        return x, updated(layer, name, frozen(x), x)
    kept, rest = (dropout.kept(x), 1 - dropout.p) if drops else (None, 1.0)
    given = (frozen.weight, frozen.bias, down, up, scaling, kept, rest)
    if not torch.is_grad_enabled():
        return x, _output(x, *given)[0]
    passed, y = _Adapted.apply(x, *given)
    return passed if x.requires_grad else x, y


def _rounds_nothing(scaling: float) -> bool:
    """Whether it is a power of two, which may be multiplied anywhere, where tensors are small."""
    return math.frexp(scaling)[0] == 0.5


def _output(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down: Tensor,
    up: Tensor,
    scaling: float,
    kept: Tensor | None,
    rest: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's output; and what the update has read, and its low rank."""
    read = x if kept is None else x * kept / rest
    y, low = linear(x, weight, bias), linear(read, down)
    y.view(-1, y.shape[-1]).addmm_(low.view(-1, low.shape[-1]), up.t(), alpha=scaling)
    return y, read, low


class _Adapted(Function):
    """``x`` and ``W x + up(down(dropout(x))) * scaling``, bit for bit as PEFT computes it, all of one format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        weight, _, down, up, ctx.scaling, kept, ctx.rest = given
        y, read, low = _output(x, *given)
        ctx.save_for_backward(read, low, weight, down, up, kept)
        ctx.set_materialize_grads(False)
        return x.view_as(x), y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        passed, grad = grads
        read, low, weight, down, up, kept = ctx.saved_tensors
        shape = read.shape
        grad, read, low = (some.reshape(-1, some.shape[-1]) for some in (grad, read, low))
        grad_low, grad_up = (grad @ up).mul_(ctx.scaling), _transposed_product(grad, low).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = None if passed is None else passed.view(read.shape)
            if kept is not None:
                own = (grad_low @ down).div_(ctx.rest).mul_(kept.view(read.shape))
                grad_x = own if grad_x is None else grad_x.add_(own)
            elif grad_x is None or len(grad_low) < _SEVERAL:
                own = grad_low @ down
                grad_x = own if grad_x is None else grad_x.add_(own)
            else:
                grad_x.addmm_(grad_low, down)
            grad_x = grad_x.add_(grad @ weight).view(shape)
        return grad_x, None, None, grad_low.t() @ read, grad_up, None, None, None


def _transposed_product(grad: Tensor, low: Tensor) -> Tensor:
    """``grad.T @ low``, as the transpose of a product that MKL computes in a third of the time."""
    return (low.t() @ grad).t()


class _Updated(Function):
    """``base + up(down(x)) * scaling``, bit for bit as written, all of one format."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        low = linear(x, down)
        ctx.save_for_backward(x, low, down, up)
        ctx.scaling, ctx.early = scaling, _rounds_nothing(scaling)
        if ctx.early:
            return linear(low * scaling, up).add_(base)
        return linear(low, up).mul_(scaling).add_(base)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        [grad] = grads
        x, low, down, up = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        if not ctx.early:
            rows = rows * ctx.scaling
        grad_up, grad_low = _transposed_product(rows, low.reshape(-1, low.shape[-1])), rows @ up
        if ctx.early:
            grad_up.mul_(ctx.scaling)
            grad_low.mul_(ctx.scaling)
        grad_down = grad_low.t() @ x.reshape(-1, x.shape[-1])
        grad_x = (grad_low @ down).view(x.shape) if ctx.needs_input_grad[1] else None
        return grad, grad_x, grad_down, grad_up, None
