"""The decoder layer in few operations: Qwen2's, with own gradients for what is neither a product nor attention.

In float32 on a CPU these operations take more time than the products between them, and PyTorch's own gradients visit
the memory about twice as often; in bfloat16 on a GPU each of them is a kernel to start. Ours compute the same within
rounding.

Shape suffixes: B rows, S positions, N selected positions, D hidden size, H heads, F width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
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

from kimi_audio_ft.model.flat import Flat

# The layers' keyword for the cache, renamed by transformers 5.24.
CACHE = "cache" if "cache" in signature(Qwen2DecoderLayer.forward).parameters else "past_key_values"


class DecoderLayer(Qwen2DecoderLayer):
    """Qwen2's layer; ``plain``: always by transformers' own forward, as for other formats, shards and trained norms.

    fused: by ours in bfloat16, too.
    """

    plain = fused = False

    def forward(
        self, hidden_states: Tensor, selected_N: Tensor | None = None, flat: Flat | None = None, **options: Any
    ) -> Tensor:
        """``[B, S, D]`` to the same, with the options of Qwen2's layer; or ``[M, 1, D]``, the positions of ``flat``.

        ``selected_N``: indices into these positions; only these are computed after the attention, as ``[N, D]``.
        """
        if self.is_plain(hidden_states.dtype):
            assert flat is None, "asked before positions are laid out flat"
            return selected(super().forward(hidden_states, **options), selected_N)
        hidden, normed = _normed(self.input_layernorm, hidden_states)
        attended = self._attended(normed, flat, **options)
        if flat is None:
            attended = selected(attended, selected_N)
        else:
            attended = flat.kept(attended) if selected_N is None else flat.answers(attended)
        hidden = selected(hidden, selected_N) + self.self_attn.o_proj(attended)
        hidden, normed = _normed(self.post_attention_layernorm, hidden)
        mlp = self.mlp
        return hidden + mlp.down_proj(_Gated.apply(*_outputs(normed, mlp.gate_proj, mlp.up_proj)))

    def is_plain(self, dtype: torch.dtype) -> bool:
        """Whether it computes by transformers' own forward."""
        own = (torch.float32, torch.bfloat16) if self.fused else (torch.float32,)
        other = dtype not in own or self.self_attn.config.hidden_act != "silu"
        return self.plain or other or self.input_layernorm.weight.requires_grad

    def _attended(
        self,
        normed: Tensor,
        flat: Flat | None,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        **options: Any,
    ) -> Tensor:
        """``[B, S, D]``, from ``[B, S, D]`` or the positions of ``flat``."""
        own = self.self_attn
        shape = (*normed.shape[: 2 if flat is None else 1], -1, own.head_dim)
        cos, sin = (table.unsqueeze(-2) for table in position_embeddings)
        query, key, value = (some.view(shape) for some in _outputs(normed, own.q_proj, own.k_proj, own.v_proj))
        query, key = _Rotated.apply(query, cos, sin), _Rotated.apply(key, cos, sin)
        if flat is not None:
            query, key, value = map(flat.in_rows, (query, key, value))
        query, key, value = (some.transpose(1, 2) for some in (query, key, value))
        cache: Cache | None = options[CACHE]
        if cache is not None:
            key, value = cache.update(key, value, own.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, eager_attention_forward)
        dropout = own.attention_dropout if self.training else 0.0
        attended, _ = attention(own, query, key, value, attention_mask, dropout=dropout, scaling=own.scaling)
        return attended.flatten(2)


def selected(x_BSD: Tensor, selected_N: Tensor | None) -> Tensor:
    """``[N, D]`` of these of the B * S positions; all, as they are, for None."""
    return x_BSD if selected_N is None else x_BSD.flatten(0, 1).index_select(0, selected_N)


def _outputs(x: Tensor, *linears: nn.Module) -> Iterator[Tensor]:
    """Outputs of several linears of one input, which an adapted one may pass on (``lora.update``)."""
    for linear in linears:
        passing = getattr(linear, "passing", None)
        x, y = (x, linear(x)) if passing is None else passing(x)
        yield y


def _normed(norm: Qwen2RMSNorm, hidden_BSD: Tensor) -> tuple[Tensor, Tensor]:
    """The residual and its norm, whose gradients are then summed at once; in bfloat16 by PyTorch's kernel of a GPU."""
    if hidden_BSD.dtype == torch.bfloat16:
        shape = (hidden_BSD.shape[-1],)
        return hidden_BSD, nn.functional.rms_norm(hidden_BSD, shape, norm.weight, norm.variance_epsilon)
    return _Normed.apply(hidden_BSD, norm.weight, norm.variance_epsilon)


class _Normed(Function):
    """``x`` and ``x / rms(x) * weight``, of a frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        rate = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon))
        ctx.save_for_backward(x, weight, rate)
        return x.view_as(x), (x * rate).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        residual, normed = grads
        x, weight, rate = ctx.saved_tensors
        grad = normed * weight
        slope = (grad * x).sum(-1, keepdim=True).mul_(rate.pow(3)).div_(-x.shape[-1])
        return torch.addcmul(residual, grad, rate).addcmul_(x, slope), None, None


class _Rotated(Function):
    """Rotary embedding ``[x1, x2] * cos + [-x2, x1] * sin`` of ``[..., H, D]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        [grad] = grads
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    y, half = x * cos, x.shape[-1] // 2
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return y


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
