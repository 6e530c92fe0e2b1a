"""A LoRA layer's update in training, as PEFT computes it but with fewer visits to the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft import PeftModel
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd import Function


def updated(layer: Any, name: str, base: Tensor, x: Tensor) -> Tensor:
    """``base``, the frozen layer's output for ``x``, plus an adapter's update, in the format of ``base``."""
    down, up, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    x = layer.lora_dropout[name](layer._cast_input_dtype(x, down.dtype))
    if base.dtype == down.dtype:
        return _Updated.apply(base, x, down, up, scaling)
    return (base + nn.functional.linear(nn.functional.linear(x, down), up) * scaling).to(base.dtype)


@contextmanager
def own_updates(model: PeftModel, name: str) -> Iterator[None]:
    """Compute a single adapter's updates by ``updated``, in all layers that are plain LoRA, inside the context."""
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if type(layer) is Linear and name in layer.lora_A and not layer.lora_variant and not layer.lora_bias[name]
    ]
    for layer in layers:
        layer.forward = partial(_forward, layer, name)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, name: str, x: Tensor) -> Tensor:
    return updated(layer, name, layer.base_layer(x), x)


class _Updated(Function):
    """``base + up(down(x)) * scaling``, bit for bit as written, all of one format.

    A power of two is multiplied where the tensors are small: it rounds nothing.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        low = nn.functional.linear(x, down)
        ctx.save_for_backward(x, low, down, up)
        ctx.scaling, ctx.early = scaling, math.frexp(scaling)[0] == 0.5
        if ctx.early:
            return nn.functional.linear(low * scaling, up).add_(base)
        return nn.functional.linear(low, up).mul_(scaling).add_(base)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        [grad] = grads
        x, low, down, up = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        if not ctx.early:
            rows = rows * ctx.scaling
        grad_up, grad_low = rows.t() @ low.reshape(-1, low.shape[-1]), rows @ up
        if ctx.early:
            grad_up.mul_(ctx.scaling)
            grad_low.mul_(ctx.scaling)
        grad_down = grad_low.t() @ x.reshape(-1, x.shape[-1])
        grad_x = (grad_low @ down).view(x.shape) if ctx.needs_input_grad[1] else None
        return grad, grad_x, grad_down, grad_up, None
