"""A pretended machine with GPUs: the CPU computes, and CUDA's rules on devices and memory hold.

``with PretendedGPUs(count=2, memory=50 * MB) as gpus: ...`` lets PyTorch see two cards in this thread. Tensors asked
for on a card are made by the CPU, and their storage carries the card's name, which views, ``detach`` and
``param.data = ...`` keep by themselves. Two modes of PyTorch's see everything that happens:

- a function mode, all that Python asks for: it takes cards out of ``device=...``, and answers ``tensor.device``;
- a dispatch mode, every operation below autograd, backward passes included: it refuses tensors of two devices and
  generators of another one, says where results are, counts their bytes while they live, and raises the errors that a
  test has asked for.

Limits: numbers and kernels are the CPU's. What C++ makes for itself has no device until it meets one. Other threads see
a CPU. No streams, fragmentation, NCCL or DTensor.
"""

from __future__ import annotations

import json
import os
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VARIABLE = "PRETENDED_GPUS"
"""Environment variable with the arguments of ``PretendedGPUs`` as JSON, for commands that tests start."""
MB = 10**6
ILLEGAL_ACCESS = "CUDA error: an illegal memory access was encountered"
CUBLAS_MEMORY = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"

CPU = torch.device("cpu")
# Operations for which the host waits for the card: it asks for numbers, or for how much there is to find.
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_consecutive", "equal"}
# Operations that may have operands on two devices, and those that take a CPU tensor of no dimension.
_COPIES = {"copy_", "_to_copy", "set_"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_TAKES_NUMBERS = {"fill_", "fill", "masked_fill", "masked_fill_", "index_fill_", "lift_fresh", "where", "pow"}


class WrongDevice(RuntimeError):
    """What CUDA would have refused."""


@dataclass
class Fault:
    """An error of the cards.

    after: number of operations on them before it. sticky: every later operation fails too, as after an illegal access.
    once: a file; only the process that makes it meets the error.
    """

    message: str
    after: int
    sticky: bool = False
    once: str | None = None

    def happens(self) -> bool:
        self.after -= 1
        if self.after > 0 or (self.after < 0 and not self.sticky):
            return False
        if self.after == 0 and self.once is not None:
            try:
                Path(self.once).touch(exist_ok=False)
            except FileExistsError:
                self.sticky = False
                return False
        return True


class _Bytes:
    """Held by a storage: its device, and on a card its bytes while it lives."""

    def __init__(self, gpus: PretendedGPUs | None, device: torch.device | None, size: int = 0) -> None:
        self.gpus, self.device, self.size = gpus, device, -(-size // 512) * 512
        if gpus is not None and device is not None:
            live = gpus.live[device.index] + self.size
            if live > gpus.memory:
                self.gpus = None
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes on {device}")
            gpus.live[device.index] = live
            gpus.peak[device.index] = max(gpus.peak[device.index], live)

    def __del__(self) -> None:
        if self.gpus is not None and self.device is not None:
            self.gpus.live[self.device.index] -= self.size


# Of a tensor that C++ has made for itself: it goes with what it meets.
_ANYWHERE = _Bytes(None, None)


def _held(tensor: Tensor) -> _Bytes | None:
    return getattr(tensor.untyped_storage(), "pretended", None) if tensor.layout == torch.strided else None


def device_of(tensor: Tensor) -> torch.device:
    """Where a tensor is pretended to be."""
    with torch._C.DisableTorchFunction():
        held = _held(tensor)
        return tensor.device if held is None or held.device is None else held.device


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class PretendedGPUs:
    """Cards of a memory in bytes each, seen while the context is entered, as CUDA_VISIBLE_DEVICES says.

    live, peak: bytes of tensors by card. operations: number of them on any card, by name.
    waits, uploads: how often the host has waited for a card, and given it data of its own, by operation.
    used: a folder in which files ``CARD.OPERATION`` tell what the cards have computed, in other processes too.
    """

    def __init__(
        self,
        count: int = 1,
        memory: float = float("inf"),
        fault: dict[str, Any] | None = None,
        used: str | None = None,
    ) -> None:
        self.total, self.memory = count, memory
        self.fault = Fault(**fault) if fault else None
        self.used, self._told = used, set[str]()
        self.live: Counter[int] = Counter()
        self.peak: Counter[int] = Counter()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.current = 0
        self.target: torch.device | None = None  # of what the operation in progress makes
        self.generators: dict[int, torch.device] = {}
        self._entered = ExitStack()

    @property
    def count(self) -> int:
        """How many cards the driver shows this process: an index that is not there ends CUDA's list."""
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            return self.total
        there = [name.strip().isdigit() and int(name) < self.total for name in named.split(",")]
        return there.index(False) if False in there else len(there)

    def __enter__(self) -> PretendedGPUs:
        with self._entered:
            for module, answers in _answers(self).items():
                for name, value in answers.items():
                    if hasattr(module, name):
                        self._entered.enter_context(patch.object(module, name, value))
            self._entered.enter_context(_Operations(self))
            self._entered.enter_context(_Functions(self))
            self._entered = self._entered.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._entered.close()

    def place(self, device: Any) -> torch.device:
        """A device as CUDA reads it: with a number, which must be there."""
        place = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if place.type != "cuda":
            return place
        index = self.current if place.index is None else place.index
        if index >= self.count:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    def put(self, tensor: Tensor, place: torch.device | None) -> None:
        """Say where a tensor's storage is; None: anywhere."""
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        if place is None:
            storage.pretended = _ANYWHERE
        elif place.type == "cuda":
            storage.pretended = _Bytes(self, place, storage.nbytes())
        elif hasattr(storage, "pretended"):
            del storage.pretended

    @contextmanager
    def making(self, place: torch.device | None) -> Iterator[None]:
        """What is made meanwhile is there; None: where its inputs are."""
        before, self.target = self.target, place
        try:
            yield
        finally:
            self.target = before

    def operate(self, name: str, card: int) -> None:
        """Count an operation on a card; raises the fault that a test has asked for."""
        self.operations[name] += 1
        if self.used is not None and (about := f"{card}.{name}") not in self._told:
            self._told.add(about)
            (Path(self.used) / about).touch()
        if self.fault is not None and self.fault.happens():
            kind = torch.AcceleratorError if self.fault.sticky else RuntimeError
            raise kind(f"{self.fault.message} (pretended)")


class _Operations(TorchDispatchMode):
    """Everything below autograd."""

    def __init__(self, gpus: PretendedGPUs) -> None:
        super().__init__()
        self.gpus = gpus

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler at the first operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        gpus, name = self.gpus, func._schema.name.partition("::")[2]
        inputs = [(tensor, _held(tensor)) for tensor in _tensors((args, kwargs))]
        cards = {held.device for _, held in inputs if held is not None and held.device is not None}
        free = [tensor for tensor, held in inputs if held is _ANYWHERE]
        place: torch.device | None = CPU
        if cards:
            place = next(iter(cards))
            gpus.operate(name, place.index)
            _require_one_device(func, name, args, inputs, cards)
            self._count_transfers(name, args, inputs)
        elif len(free) == len(inputs):
            place = None
        if gpus.target is not None:
            place = gpus.target
        self._require_generator(name, kwargs.get("generator"), place)
        out = func(*args, **kwargs)
        for tensor in free if cards else []:
            gpus.put(tensor, next(iter(cards)))
        if place != CPU:
            known = {tensor.untyped_storage()._cdata for tensor, _ in inputs if tensor.layout == torch.strided}
            for tensor in _tensors(out):
                if tensor.layout == torch.strided and tensor.untyped_storage()._cdata not in known:
                    gpus.put(tensor, place)
        return out

    def _count_transfers(self, name: str, args: Any, inputs: Any) -> None:
        """Of an operation that has an operand on a card."""
        gpus, here = self.gpus, [tensor for tensor, held in inputs if held is None or held.device is None]
        masks = name in _INDEXING and any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1]))
        down = (name == "_to_copy" and gpus.target == CPU) or (name == "copy_" and _held(args[0]) is None)
        if name in _WAITS or masks or down or (name == "repeat_interleave" and len(inputs) == 1):
            gpus.waits[name] += 1
        elif (name in _INDEXING and any(tensor.dim() for tensor in here)) or (name == "copy_" and here):
            gpus.uploads[name] += 1

    def _require_generator(self, name: str, generator: Any, place: torch.device | None) -> None:
        if generator is not None and place is not None:
            own = self.gpus.generators.get(generator._cdata, CPU)
            if own.type != place.type:
                raise WrongDevice(f"{name}: expected a generator on {place}, found one on {own}")


def _require_one_device(func: Any, name: str, args: Any, inputs: Any, cards: set[torch.device]) -> None:
    if name in _COPIES or func._schema.name.startswith("c10d"):
        return
    if len(cards) > 1:
        raise WrongDevice(f"{name}: tensors on {sorted(map(str, cards))}")
    strangers = [tensor for tensor, held in inputs if held is None and tensor.device.type == "cpu"]
    if name in _INDEXING and _held(args[0]) is not None:  # an index may be the CPU's
        indices = {id(tensor) for tensor in _tensors(args[1])}
        strangers = [tensor for tensor in strangers if id(tensor) not in indices]
    if torch.Tag.pointwise in func.tags or name in _TAKES_NUMBERS | _INDEXING or name.startswith("_f"):
        strangers = [tensor for tensor in strangers if tensor.dim()]
    if strangers:
        shapes = ", ".join(f"{tuple(tensor.shape)} on {device_of(tensor)}" for tensor, _ in inputs)
        raise WrongDevice(f"{name}: expected all tensors to be on the same device: {shapes}")


class _Functions(TorchFunctionMode):
    """Everything that Python asks of torch and of tensors."""

    def __init__(self, gpus: PretendedGPUs) -> None:
        super().__init__()
        self.gpus = gpus
        self.answers: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: lambda tensor: device_of(tensor),
            Tensor.is_cuda.__get__: lambda tensor: device_of(tensor).type == "cuda",
            Tensor.is_cpu.__get__: lambda tensor: device_of(tensor).type == "cpu",
            Tensor.get_device: lambda tensor: {"cpu": -1}.get(device_of(tensor).type, device_of(tensor).index),
            Tensor.to: self._to,
            Tensor.cpu: lambda tensor, *_, **__: self._move(tensor, CPU),
            Tensor.cuda: lambda tensor, device="cuda", *_, **__: self._move(tensor, device),
            Tensor.tolist: self._tolist,
            Tensor.numpy: lambda tensor, *args, **options: Tensor.numpy(self._readable(tensor), *args, **options),
            Tensor.__array__: lambda tensor, *args, **options: Tensor.__array__(self._readable(tensor), *args),
            Tensor.__deepcopy__: self._deepcopy,
            Tensor.pin_memory: lambda tensor, *_: self._readable(tensor).clone(),
            Tensor.is_pinned: lambda tensor, *_: False,
            Tensor.record_stream: lambda tensor, *_: None,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        answer = self.answers.get(func)
        if answer is not None:
            return answer(*args, **kwargs)
        asked = kwargs.get("device")
        if asked is None:
            out = func(*args, **kwargs)
            if not _tensors((args, kwargs)):  # made by Python, on its default device
                for tensor in out if isinstance(out, tuple | list) else [out]:
                    if isinstance(tensor, Tensor) and _held(tensor) is _ANYWHERE:
                        self.gpus.put(tensor, CPU)
            return out
        place = self.gpus.place(asked)
        if place.type == "cuda":
            kwargs["device"] = CPU
            if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
                self.gpus.uploads["tensor"] += 1
        with self.gpus.making(place):
            out = func(*args, **kwargs)
        if isinstance(out, Tensor) and device_of(out) != place and place.type != "meta":
            if any(out.untyped_storage()._cdata == one.untyped_storage()._cdata for one in _tensors(args)):
                return self._move(out, place)  # as_tensor
            self.gpus.put(out, place)
        return out

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        options = dict(zip(_names_of_to(args), args, strict=False)) | kwargs
        options.pop("non_blocking", None)
        other = options.pop("other", None)
        if other is not None:
            options |= {"device": device_of(other), "dtype": other.dtype}
        device = options.pop("device", None)
        return self._move(tensor, device_of(tensor) if device is None else device, **options)

    def _move(self, tensor: Tensor, device: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        place = self.gpus.place("cuda" if device is None else device)
        dtype = tensor.dtype if dtype is None else dtype
        if tensor.device.type != "cpu" or place.type == "meta":
            return Tensor.to(tensor, place, dtype, **options)
        if place == device_of(tensor):
            return Tensor.to(tensor, dtype, **options)
        if place.type == "cuda" and device_of(tensor) == CPU:
            self.gpus.uploads["to"] += 1
        with self.gpus.making(place):
            return Tensor.to(tensor, dtype, **{**options, "copy": True})

    def _tolist(self, tensor: Tensor) -> Any:
        if device_of(tensor).type == "cuda":
            self.gpus.waits["tolist"] += 1
        return Tensor.tolist(tensor)

    def _readable(self, tensor: Tensor) -> Tensor:
        if device_of(tensor).type == "cuda":
            raise TypeError(f"can't convert {device_of(tensor)} device type tensor to numpy")
        return tensor

    def _deepcopy(self, tensor: Tensor, memo: Any) -> Tensor:
        copy = Tensor.__deepcopy__(tensor, memo)
        if device_of(copy) != device_of(tensor):
            self.gpus.put(copy, device_of(tensor))
        return copy


def _names_of_to(args: Any) -> tuple[str, ...]:
    """Names of the positional arguments of ``Tensor.to``, which has three forms."""
    if args and isinstance(args[0], Tensor):
        return ("other", "non_blocking", "copy")
    if args and isinstance(args[0], torch.dtype):
        return ("dtype", "non_blocking", "copy")
    return ("device", "dtype", "non_blocking", "copy")


def _answers(gpus: PretendedGPUs) -> dict[Any, dict[str, Any]]:
    """What replaces functions of torch meanwhile, by module."""

    def index(device: Any = None) -> int:
        return gpus.current if device is None else int(gpus.place(device).index)

    def set_device(device: Any) -> int:
        before = gpus.current
        if not isinstance(device, int) or device >= 0:
            gpus.current = index(device)
        return before

    def on(answer: Callable[[int], Any]) -> Callable[..., Any]:
        """A function of a device, which must be there."""
        return lambda device=None, *_, **__: answer(index(device))

    def forget_peak(card: int) -> None:
        gpus.peak[card] = gpus.live[card]

    class Generator(torch.Generator):
        def __new__(cls, device: Any = "cpu") -> Any:
            made = super().__new__(cls, "cpu")
            gpus.generators[made._cdata] = gpus.place(device)
            return made

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return gpus.generators[self._cdata]

    def grouped(lists: Any, with_indices: bool = False) -> Any:
        """Optimizers and clipping ask C++ for the devices of their tensors."""
        return {
            (next(device_of(one) for column in group[0] for one in column if one is not None), dtype): group
            for (_, dtype), group in plain_grouping(lists, with_indices).items()
        }

    plain_grouping = torch._C._group_tensors_by_device_and_dtype
    facts = {"major": 9, "minor": 0, "multi_processor_count": 132, "name": "Pretended GPU", "warp_size": 32}
    total = int(min(gpus.memory, 2**47))
    stream = types.SimpleNamespace(synchronize=lambda: None, wait_stream=lambda _: None, is_capturing=lambda: False)
    common = {
        "is_available": lambda: gpus.count > 0,
        "device_count": lambda: gpus.count,
        "synchronize": on(lambda card: None),
        "empty_cache": lambda: None,
        "current_stream": on(lambda card: stream),
    }
    cuda = common | {
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "is_initialized": lambda: True,
        "current_device": lambda: gpus.current,
        "set_device": set_device,
        "_exchange_device": set_device,
        "_maybe_exchange_device": set_device,
        "ipc_collect": lambda: None,
        "is_bf16_supported": lambda *_, **__: True,
        "is_current_stream_capturing": lambda: False,
        "get_device_name": on(lambda card: facts["name"]),
        "get_device_properties": on(lambda card: types.SimpleNamespace(total_memory=total, **facts)),
        "get_device_capability": on(lambda card: (9, 0)),
        "memory_allocated": on(lambda card: gpus.live[card]),
        "memory_reserved": on(lambda card: gpus.live[card]),
        "max_memory_allocated": on(lambda card: gpus.peak[card]),
        "mem_get_info": on(lambda card: (total - gpus.live[card], total)),
        "reset_peak_memory_stats": on(forget_peak),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": on(lambda card: torch.zeros(16, dtype=torch.uint8)),
        "set_rng_state": lambda state, device=None: None,
        "_is_in_bad_fork": lambda: False,
    }
    accelerator = common | {
        "current_accelerator": lambda *_, **__: torch.device("cuda") if gpus.count else None,
        "current_device_index": lambda: gpus.current,
        "set_device_index": set_device,
    }
    return {
        torch.cuda: cuda,
        torch.accelerator: accelerator,
        torch: {"Generator": Generator},
        torch._C: {"_group_tensors_by_device_and_dtype": grouped},
    }


def pretend_from_environment() -> PretendedGPUs | None:
    """Pretend for the rest of this process, and of those forked from it, if the environment says so."""
    asked = os.environ.get(VARIABLE)
    return PretendedGPUs(**json.loads(asked)).__enter__() if asked else None
