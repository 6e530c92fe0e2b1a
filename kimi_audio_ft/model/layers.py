"""The decoder layer in float32: Qwen2's, with own gradients for what is neither a product nor attention.

On a CPU these operations take more time than the products between them, and PyTorch's own gradients visit the memory
about twice as often. Ours do the same arithmetic in the same order: results are equal bit for bit.

Shape suffixes: B rows, S positions, D hidden size, H heads, F width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers.cache_utils import Cache
from transformers.models.qwen2.modeling_qwen2 import (
    ALL_ATTENTION_FUNCTIONS,
    Qwen2DecoderLayer,
    Qwen2RMSNorm,
    eager_attention_forward,
)


class DecoderLayer(Qwen2DecoderLayer):
    """Qwen2's layer; ``plain``: always by transformers' own forward, as for other formats, shards and trained norms."""

    plain = False

    def forward(self, hidden_states: Tensor, **options: Any) -> Tensor:
        """``[B, S, D]`` to the same, with the options of Qwen2's layer."""
        if self._is_plain(hidden_states):
            return super().forward(hidden_states, **options)
        hidden_BSD, normed_BSD = _normed(self.input_layernorm, hidden_states)
        hidden_BSD = hidden_BSD + self._attend(normed_BSD, **options)
        hidden_BSD, normed_BSD = _normed(self.post_attention_layernorm, hidden_BSD)
        mlp = self.mlp
        return hidden_BSD + mlp.down_proj(_Gated.apply(*_outputs(normed_BSD, mlp.gate_proj, mlp.up_proj)))

    def _is_plain(self, hidden_BSD: Tensor) -> bool:
        other = hidden_BSD.dtype != torch.float32 or self.self_attn.config.hidden_act != "silu"
        return self.plain or other or self.input_layernorm.weight.requires_grad

    def _attend(
        self,
        normed_BSD: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None,
        **_: Any,
    ) -> Tensor:
        own = self.self_attn
        shape = (*normed_BSD.shape[:2], -1, own.head_dim)
        cos, sin = (table.unsqueeze(1) for table in position_embeddings)
        half = own.head_dim // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        projected = _outputs(normed_BSD, own.q_proj, own.k_proj, own.v_proj)
        query, key, value = (some.view(shape).transpose(1, 2) for some in projected)
        query, key = _Rotated.apply(query, cos, sin), _Rotated.apply(key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, own.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, eager_attention_forward)
        options = {"dropout": own.attention_dropout if self.training else 0.0, "scaling": own.scaling}
        attended, _ = attention(own, query, key, value, attention_mask, **options)
        return own.o_proj(attended.reshape(*shape[:2], -1))


def _outputs(x: Tensor, *linears: nn.Module) -> Iterator[Tensor]:
    """Outputs of several linears of one input, which an adapted one may pass on (``lora.update``)."""
    for linear in linears:
        passing = getattr(linear, "passing", None)
        x, y = (x, linear(x)) if passing is None else passing(x)
        yield y


def _normed(norm: Qwen2RMSNorm, hidden_BSD: Tensor) -> tuple[Tensor, Tensor]:
    """The residual and its norm, whose gradients are then summed at once."""
    return _Normed.apply(hidden_BSD, norm.weight, norm.variance_epsilon)


class _Normed(Function):
    """``x`` and ``x / rms(x) * weight``, of a frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        rate = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, rate)
        return x.view_as(x), (x * rate).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        residual, normed = grads
        x, weight, rate = ctx.saved_tensors
        grad = normed * weight
        slope = (grad * x).sum(-1, keepdim=True).mul_(-0.5).mul_(rate.pow(3)).div_(x.shape[-1]).mul_(2)
        return grad.mul_(rate).add_(residual).add_(x * slope), None, None


class _Rotated(Function):
    """Rotary embedding ``x * cos + [x2, x1] * sin`` of ``[B, H, S, D]``; the first half of ``sin`` is negated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).add_(x.roll(x.shape[-1] // 2, -1).mul_(sin))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        [grad] = grads
        cos, sin = ctx.saved_tensors
        return (grad * cos).sub_(grad.roll(grad.shape[-1] // 2, -1).mul_(sin)), None, None


class _Gated(Function):
    """``silu(gate) * up`` of ``[B, S, F]``; keeps no more than its inputs."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        [grad] = grads
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), nn.functional.silu(gate).mul_(grad)
