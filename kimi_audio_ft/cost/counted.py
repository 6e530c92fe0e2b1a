"""A training step and a decoding step, counted on the meta device: kernels, bytes that they move, bytes that live.

Nothing is computed there, so the 7B is counted in a second, on two and on three of its layers: every further layer adds
what the third one adds, and every further position what the last one added. The count is that of the code as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from threading import RLock
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.cache_utils import DynamicCache

from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.lora.adapter import ONE, add_adapter
from kimi_audio_ft.lora.pack import seed_dropout
from kimi_audio_ft.lora.update import own_updates
from kimi_audio_ft.model.config import KimiAudioConfig
from kimi_audio_ft.model.decoder import KimiAudioForCausalLM
from kimi_audio_ft.model.head_loss import CHUNK, chunked_losses

# Bytes for each number of a layer's linear in NF4: half of one, and a float32 scale for every 64.
NF4_BYTES = 0.5 + 4 / 64
# Positions, answers or rows of a counted step, and of one twice as large.
_FEW = 64
# Matrix products, and which of their arguments the first factor is.
_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1}
# Operations that launch no kernel besides views.
_FREE = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "_unsafe_view", "device")


@dataclass(frozen=True)
class Count:
    """What operations cost.

    kernels: launched, one for each operation that is no view. flops: floating-point operations of matrix products;
    attention's own, a hundredth of them for clips of ten seconds, are left out. product_bytes, other_bytes: read and
    written by matrix products, and by everything else. peak: bytes that were alive at a time, beside weights.
    """

    kernels: float = 0.0
    flops: float = 0.0
    product_bytes: float = 0.0
    other_bytes: float = 0.0
    peak: float = 0.0

    def plus(self, other: Count, times: float = 1.0) -> Count:
        """This and ``times`` the other."""
        return Count(*(own + times * more for own, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Growing:
    """A count that grows with a number, such as a step's with its positions."""

    fixed: Count
    each: Count

    @classmethod
    def by(cls, run: Callable[[int], Count], number: int = _FEW) -> Growing:
        """From the counts of a number and of twice as many."""
        few, many = run(number), run(2 * number)
        each = Count().plus(many, 1 / number).plus(few, -1 / number)
        return cls(few.plus(each, -number), each)

    def at(self, number: float) -> Count:
        return self.fixed.plus(self.each, number)


class Counts:
    """Of a model with an adapter, each counted when it is asked for.

    Args:
        config: of the whole model; the audio branch is never computed.
        lora: None: the base alone, which only decodes.
        quantized: the base's linears are in NF4. plain: layers and adapters are transformers' and PEFT's own.
    """

    def __init__(
        self,
        config: KimiAudioConfig,
        lora: LoraConfig | None,
        dtype: torch.dtype,
        checkpointing: bool = False,
        quantized: bool = False,
        plain: bool = False,
    ) -> None:
        self.config, self.dtype = config, dtype
        self._few, self._more = (_Layers(config, lora, dtype, checkpointing, layers, plain) for layers in (2, 3))
        self._further, self._quantized = config.num_hidden_layers - 2, quantized

    @cached_property
    def position(self) -> Growing:
        """Forward and backward pass of a micro-batch through the layers, by its padded positions."""
        return Growing.by(lambda positions: self._whole(lambda model: model.step(positions)))

    @cached_property
    def answer(self) -> Growing:
        """Head and loss of a micro-batch, by its supervised positions; in parts, memory is that of a whole one."""
        found = Growing.by(self._few.loss)
        if not self._few.model.takes_labels:
            return found
        parts = Growing.by(self._few.loss, CHUNK)
        fixed, each = replace(found.fixed, peak=parts.fixed.peak), replace(found.each, peak=parts.each.peak)
        return Growing(fixed, each)

    @cached_property
    def prompt(self) -> Growing:
        """Forward pass of prompts that are to be answered, by their positions; their keys and values are kept."""
        return Growing.by(lambda positions: self._whole(lambda model: model.prompt(positions)))

    @cached_property
    def row(self) -> Growing:
        """A decoding step of the whole model, by the rows of its batch; what is cached of a row is one position."""
        return Growing.by(lambda rows: self._whole(lambda model: model.token(rows)))

    @property
    def frozen(self) -> int:
        """Numbers of the base without its audio branch."""
        return round(self._number(lambda model: model.frozen))

    @property
    def trained(self) -> int:
        """Numbers of the adapter."""
        return round(self._number(lambda model: model.trained))

    @property
    def base_bytes(self) -> int:
        return round(self._number(lambda model: model.base_bytes(self._quantized)))

    def bytes_on(self, ranks: int) -> int:
        """Of the base on each of so many ranks that share its layers: two at a time are whole, the rest always."""
        layer = self._more.base_bytes(self._quantized) - self._few.base_bytes(self._quantized)
        layers = (2 + self._further) * layer
        return round(self.base_bytes - layers + layers / ranks + 2 * layer) if ranks > 1 else self.base_bytes

    def _whole(self, run: Callable[[_Layers], Count]) -> Count:
        few = run(self._few)
        return few.plus(run(self._more).plus(few, -1), self._further)

    def _number(self, of: Callable[[_Layers], float]) -> float:
        return of(self._few) + self._further * (of(self._more) - of(self._few))


class _Layers:
    """A model of a few layers on the meta device, at full width."""

    def __init__(
        self,
        config: KimiAudioConfig,
        lora: LoraConfig | None,
        dtype: torch.dtype,
        checkpointing: bool,
        layers: int,
        plain: bool,
    ) -> None:
        fields = config.to_dict() | {"num_hidden_layers": layers, "kimia_mimo_layers": 0, "layer_types": None}
        own = KimiAudioConfig(**fields | {"kimia_mimo_transformer_from_layer_index": 0})
        own.dtype = dtype
        with torch.device("meta"):
            self.model = KimiAudioForCausalLM(own).to(dtype).requires_grad_(False).eval()
            del self.model.mimo_output, self.model.model.mimo_norm
            self.adapted = None if lora is None else _adapted(self.model, lora)
        self.model.set_plain(plain, whisper=False)
        self.model.set_fused(dtype == torch.bfloat16 and not plain)  # as on a GPU
        self.plain = plain
        self.dropout = None if self.adapted is None else seed_dropout(self.adapted, ONE)
        if self.adapted is not None and self.dropout is not None:
            for layer in self.adapted.modules():
                if isinstance(layer, LoraLayer) and layer.in_features:  # keys that a training makes once
                    self.dropout.columns(layer.in_features, torch.device("meta"))
        self.checkpointing = checkpointing
        numbers = [(name, value.numel(), value.requires_grad) for name, value in self.model.named_parameters()]
        self.trained = sum(count for _, count, trained in numbers if trained)
        self.frozen = sum(count for _, count, trained in numbers if not trained)
        self.linears = sum(count for name, count, trained in numbers if not trained and "_proj" in name)

    def base_bytes(self, quantized: bool) -> float:
        """Bytes of the frozen weights, with the layers' linears in NF4 if asked for."""
        packed = self.linears if quantized else 0
        return (self.frozen - packed) * self.model.dtype.itemsize + packed * NF4_BYTES

    def step(self, positions: int) -> Count:
        """Forward and backward pass of the layers."""
        assert self.adapted is not None and self.dropout is not None
        if self.checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.adapted.train()
        one = torch.zeros(1, dtype=torch.long, device="meta")
        if self.model.fused:  # masks of a GPU, and of a CPU
            self.dropout.by_place(0, 0, one, positions, (one, one))
        else:
            self.dropout.at(0, 0, 0, (1, positions), (one, one))
        with nullcontext() if self.plain else own_updates(self.adapted, ONE), counting() as counter:
            hidden_BSD = self._hidden(1, positions).requires_grad_()
            normed_ND, _ = self.model.model(hidden_BSD, None, None, False, one)
            normed_ND.sum().backward()
        self.adapted.zero_grad()
        self.adapted.eval()
        if self.checkpointing:
            self.model.gradient_checkpointing_disable()
        return counter.count

    def loss(self, answers: int) -> Count:
        """Head and loss, there and back."""
        with counting() as counter:
            hidden_ND = self._hidden(1, answers)[0].requires_grad_()
            labels_N = torch.zeros(answers, dtype=torch.long)
            if self.model.takes_labels:
                chunked_losses(hidden_ND, self.model.lm_head.weight, labels_N).sum().backward()
            else:
                functional.cross_entropy(self.model.lm_head(hidden_ND).float(), labels_N).backward()
        return counter.count

    @torch.no_grad()
    def prompt(self, positions: int) -> Count:
        """A prompt through the layers, with its keys and values."""
        with counting() as counter:
            cache = DynamicCache()
            self.model.model(self._hidden(1, positions), None, cache, False)
        return counter.count

    @torch.no_grad()
    def token(self, rows: int, past: int = 1) -> Count:
        """A further token of every row of a batch; what is cached of those before is no more than a position."""
        cache = DynamicCache()
        with counting():
            self.model.model(self._hidden(rows, past), None, cache, False)
        with counting() as counter:
            normed_BSD, _ = self.model.model(self._hidden(rows, 1), None, cache, False)
            self.model.lm_head(normed_BSD)
        return counter.count

    def _hidden(self, rows: int, positions: int) -> Tensor:
        return torch.empty(rows, positions, self.model.config.hidden_size, dtype=self.model.dtype, device="meta")


def _adapted(model: KimiAudioForCausalLM, lora: LoraConfig) -> Any:
    try:
        return add_adapter(model, lora, 0)
    except ConfigError:  # its targets are in layers that are not among these few
        return add_adapter(model, replace(lora, target_modules="decoder"), 0)


@contextmanager
def counting() -> Iterator[Counter]:
    """Count operations on the meta device, attention and RMSNorm as one kernel each way, as they are on a GPU."""
    with Counter() as counter, _single_kernels(counter), torch.device("meta"):
        yield counter


class Counter(TorchDispatchMode):
    """Counts all operations inside it, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.flops = self.product_bytes = self.other_bytes = 0
        self.now = self.most = 0

    @property
    def count(self) -> Count:
        return Count(self.kernels, self.flops, self.product_bytes, self.other_bytes, self.most)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler at the first operation

    def add(self, moved: Sequence[Tensor], flops: int = 0) -> None:
        """A kernel that reads or writes these; operations of a matrix product."""
        size = sum(value.numel() * value.element_size() for value in moved)
        self.kernels += 1
        self.flops += flops
        if flops:
            self.product_bytes += size
        else:
            self.other_bytes += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = _tensors([args, kwargs])
        known = {id(value.untyped_storage()) for value in inputs}
        out = func(*args, **(kwargs or {}))
        outputs = _tensors(out)
        name = func._schema.name.partition("::")[2]
        if not func.is_view and name not in _FREE:
            product = name in _PRODUCTS
            self.add([*inputs, *outputs], 2 * args[_PRODUCTS[name]].shape[-1] * outputs[0].numel() if product else 0)
        for value in outputs:
            storage: Any = value.untyped_storage()
            if id(storage) not in known and not hasattr(storage, "counted"):
                storage.counted = _Bytes(self, storage.nbytes())
        return out


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class _Bytes:
    """Lives as long as the storage that it is an attribute of."""

    def __init__(self, counter: Counter, size: int) -> None:
        self.counter, self.size = counter, size
        counter.now += size
        counter.most = max(counter.most, counter.now)

    def __del__(self) -> None:
        self.counter.now -= self.size


# Functions of PyTorch's are replaced by one thread at a time, so that each puts back the right ones.
_REPLACING = RLock()


@contextmanager
def _single_kernels(counter: Counter) -> Iterator[None]:
    """On the meta device attention and RMSNorm as a GPU computes them: there they are composed, and keep every pair.

    No function mode, which would not be there where a backward pass computes layers again. What other threads compute
    meanwhile on a device is computed as ever.
    """
    with _REPLACING:
        norm, attention = functional.rms_norm, functional.scaled_dot_product_attention

        def one_norm(x: Tensor, *args: Any, **options: Any) -> Any:
            if not x.is_meta:
                return norm(x, *args, **options)
            return _Kernel.apply(counter, False, x, *_tensors([args, options]))

        def one_attention(query: Tensor, *args: Any, **options: Any) -> Any:
            if not query.is_meta:
                return attention(query, *args, **options)
            return _Kernel.apply(counter, True, query, *_tensors([args, options]))

        try:
            vars(functional).update(rms_norm=one_norm, scaled_dot_product_attention=one_attention)
            yield
        finally:
            vars(functional).update(rms_norm=norm, scaled_dot_product_attention=attention)


class _Kernel(Function):
    """Shapes of a kernel each way, whose output is like its first input.

    It keeps its inputs and a number for each row (float32), and attention its output.
    """

    @staticmethod
    def forward(ctx: Any, counter: Counter, keeps_output: bool, *inputs: Tensor) -> Tensor:
        out, rows = torch.empty_like(inputs[0]), inputs[0].new_empty(inputs[0].shape[:-1], dtype=torch.float32)
        ctx.counter, ctx.count = counter, len(inputs)
        ctx.save_for_backward(*inputs, rows, *([out] if keeps_output else []))
        counter.add([*inputs, rows, out])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        asked = zip(saved[: ctx.count], ctx.needs_input_grad[2:], strict=True)
        own = [torch.empty_like(value) if needed else None for value, needed in asked]
        ctx.counter.add(_tensors([saved, grads, own]))
        return None, None, *own
