"""Count what a training step asks of a device, on the 7B's shapes, without the device: nothing is computed.

``python -m experiments.count_operations`` prints operations and bytes of one decoder layer, as they are on a GPU in
bfloat16 with ``model.kernels=plain`` and ``fused``.

Bytes are those of every operation's inputs and outputs. Views are no operations. PyTorch's RMSNorm and attention are
one kernel each way on a GPU, and are counted so, although they are composed of several elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.bench_gpu.shapes import Shapes, shapes
from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.lora.adapter import add_adapters
from kimi_audio_ft.lora.pack import Pack, Share, seed_dropout
from kimi_audio_ft.lora.update import own_updates
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM

# Operations that start no kernel: they look at memory in another way, or reserve it.
_VIEWS = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze"),
    *("split", "split_with_sizes", "detach", "alias", "as_strided", "lift_fresh"),
    *("device", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_reshape_alias"),
}


class Operations(TorchDispatchMode):
    """Counts operations by name and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.bytes = 0

    @property
    def count(self) -> int:
        return self.names.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **kwargs or {}), func._schema.name.partition("::")[2]
        if name not in _VIEWS:
            self.add(name, args, kwargs, out)
        return out

    def add(self, name: str, *values: Any) -> None:
        """One operation with these inputs and outputs."""
        self.names[name] += 1
        tensors = {id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
        self.bytes += sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())

    @contextmanager
    def as_one(self) -> Iterator[list[Any]]:
        """Count everything inside as one operation: the yielded list gets its name and its tensors."""
        names, size, values = self.names.copy(), self.bytes, list[Any]()
        yield values
        self.names, self.bytes = names, size
        self.add(*values)


class _One(Function):
    """A function of tensors as one operation each way; gradients have no values, as all that is counted here."""

    @staticmethod
    def forward(ctx: Any, counted: Operations, name: str, compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.counted, ctx.name = counted, name
        with counted.as_one() as values:
            out = compute(*tensors)
            values += [name, *tensors, out]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        with ctx.counted.as_one() as values:
            own = [torch.empty_like(one) if one.requires_grad else None for one in tensors]
            values += [f"{ctx.name}_backward", *tensors, *grads, *own]
        return None, None, None, *own


@contextmanager
def counting() -> Iterator[Operations]:
    """Count operations; RMSNorm and attention are one each, as on a GPU."""

    def one_norm(x: Tensor, shape: Any, weight: Tensor, epsilon: float) -> Tensor:
        return _One.apply(counted, "rms_norm", lambda x, _: torch.empty_like(x), x, weight)

    def one_attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        masks = [mask for mask in (options.pop("attn_mask", None),) if mask is not None]
        return _One.apply(counted, "attention", lambda query, *_: torch.empty_like(query), query, key, value, *masks)

    ours = patch.multiple(nn.functional, rms_norm=one_norm, scaled_dot_product_attention=one_attention)
    with Operations() as counted, ours:
        yield counted


@contextmanager
def adapted(model: KimiAudioForCausalLM, loras: Sequence[LoraConfig], rows: int, length: int) -> Iterator[nn.Module]:
    """The model with adapters on it in training, each with ``rows`` rows of ``length`` positions; without, alone."""
    if not loras:
        yield model
        return
    names = [f"a{number}" for number in range(len(loras))]
    peft = add_adapters(model, {name: (lora, 1) for name, lora in zip(names, loras, strict=True)})
    peft.train()
    one = len(loras) == 1
    with own_updates(peft, names[0]) if one else closing(Pack(peft, names, "batched")) as pack:
        if pack is not None:
            pack.shares = [Share(name, rows, 0, rows) for name in names]
        for name in names:
            answers = torch.arange(rows), torch.full((rows,), length - 1)
            seed_dropout(peft, name).by_place(1, 0, torch.arange(rows), length, answers)
        yield peft


def _decoder(kind: Shapes, layers: int) -> KimiAudioForCausalLM:
    own = {"num_hidden_layers": layers, "kimia_mimo_layers": 0, "kimia_mimo_transformer_from_layer_index": 0}
    torch.set_default_dtype(torch.bfloat16)
    try:
        return KimiAudioForCausalLM(KimiAudioConfig(**kind.decoder | own)).requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def step_of(
    kind: Shapes,
    layers: int,
    loras: Sequence[LoraConfig],
    fused: bool,
    rows: int = 1,
    length: int = 180,
    checkpointing: bool = False,
) -> Operations:
    """Operations of a step of a model of so many layers in bfloat16, with one answer token in each row."""
    with torch.device("meta"):
        model = _decoder(kind, layers)
        model.set_fused(fused)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with adapted(model, loras, rows, length) as training, counting() as counted:
            ids = torch.zeros(rows, length, dtype=torch.long)
            copies = max(1, len(loras))
            embedded = model.model.embed(ids, ids, None, None).repeat(copies, 1, 1)
            last = torch.arange(1, copies * rows + 1) * length - 1
            if isinstance(training, KimiAudioForCausalLM):
                embedded.requires_grad_(True)
            hidden, _ = model.model(embedded, None, None, False, last)
            model.lm_head(hidden).sum().backward()
    return counted


# Adapters of one pack, and whether layers are computed again in the backward pass.
WAYS: dict[str, tuple[list[LoraConfig], bool]] = {
    "base alone": ([], False),
    "r 8 without dropout": ([LoraConfig(lora_dropout=0.0)], False),
    "r 8": ([LoraConfig()], False),
    "r 8, gradient checkpointing": ([LoraConfig()], True),
    "pack of 4, r 8": ([LoraConfig()] * 4, False),
}


def per_layer(kind: Shapes, loras: Sequence[LoraConfig], fused: bool, checkpointing: bool = False) -> tuple[int, int]:
    """Operations and bytes of one more layer, at 16 clips of 180 positions for each adapter."""
    few, more = (step_of(kind, n, loras, fused, rows=16, checkpointing=checkpointing) for n in (2, 3))
    return more.count - few.count, more.bytes - few.bytes


def main() -> None:
    """Print the table."""
    kind = shapes("7b")
    print("| a layer's forward and backward, 2,880 positions | operations, plain | fused | GB, plain | fused |")
    print("|---|---:|---:|---:|---:|")
    for name, (loras, checkpointing) in WAYS.items():
        counts = [per_layer(kind, loras, fused, checkpointing) for fused in (False, True)]
        operations, sizes = zip(*counts, strict=True)
        print(f"| {name} | {operations[0]} | {operations[1]} | {sizes[0] / 1e9:.1f} | {sizes[1] / 1e9:.1f} |")


if __name__ == "__main__":
    main()
