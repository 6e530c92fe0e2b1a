"""Adapters in training: specification (``AdapterSpec``), state (``AdapterState``), whole tensors by parameter name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import distribute_tensor

from kimi_audio_ft.config.canonical import warmup_steps
from kimi_audio_ft.config.train import LoraConfig, OptimConfig
from kimi_audio_ft.lora.adapter import ONE
from kimi_audio_ft.lora.pack import DropoutSeed
from kimi_audio_ft.training.ending import TrainingFailed


@dataclass(frozen=True)
class AdapterSpec:
    """Specification of an adapter to train.

    name: unique and without dots, such as its training signature.
    folder: receives the finished adapter. work: holds its checkpoints, also after an interruption.
    """

    name: str
    lora: LoraConfig
    optim: OptimConfig
    seed: int
    folder: Path
    work: Path


@dataclass(eq=False)
class AdapterState:
    """State of an adapter in training.

    rate, step_loss, grad_norm: of the last step, the loss and the norm of gradients (before clipping) over all ranks.
    failure: why its training failed.
    """

    optim: OptimConfig
    seed: int
    name: str = ONE
    rate: float = 0.0
    step_loss: float = 0.0
    grad_norm: float = 0.0
    failure: TrainingFailed | None = None
    dropout: DropoutSeed = field(default_factory=DropoutSeed)


def rate_factor(schedule: str, num_steps: int, warmup_ratio: float) -> Callable[[int], float]:
    """Learning rate factor by optimizer step: linear warm-up, then constant, or linear or cosine decay to 0."""
    warmup = warmup_steps(num_steps, warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if schedule == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def rename(values: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """Select one adapter's values by parameter name and rename them to another adapter."""
    return {key.replace(f".{old}.", f".{new}."): value for key, value in values.items() if f".{old}." in key}


# Below, parameters and AdamW's moments are whole tensors by name, whether a strategy holds them on one device, as
# DTensor shards (FSDP2), or as partitions (DeepSpeed ZeRO-3).
MOMENTS = ("exp_avg", "exp_avg_sq")


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def adapter_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Whole trained parameters by name, copied to the CPU."""
    found = {}
    for name, parameter in _trained(module):
        with _gathered(parameter):
            found[name] = _whole(parameter).detach().cpu().clone()
    return found


@torch.no_grad()
def set_adapter_parameters(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    parameters = dict(_trained(module))
    assert parameters.keys() == values.keys(), "a checkpoint of another adapter"
    for name, parameter in parameters.items():
        with _gathered(parameter, write=True):
            parameter.copy_(_like(parameter, values[name]))
        if _is_partition(parameter):
            from deepspeed.utils import safe_set_full_fp32_param

            # DeepSpeed's optimizer has its own copy.
            safe_set_full_fp32_param(parameter, values[name].to(parameter.device))


def moments(module: nn.Module, optimizer: Any) -> dict[str, Any]:
    """AdamW's state by parameter name, ``{"step", "exp_avg", "exp_avg_sq"}``; empty before the first step."""
    found: dict[str, Any] = {}
    steps = _zero_steps(optimizer)
    for name, parameter in _trained(module):
        if _is_partition(parameter):
            from deepspeed.utils import safe_get_full_optimizer_state

            if steps:
                found[name] = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS} | {"step": steps}
        elif parameter in optimizer.state:
            state = optimizer.state[parameter]
            found[name] = {key: _whole(state[key]) for key in MOMENTS} | {"step": float(state["step"])}
    for state in found.values():
        state |= {key: state[key].detach().cpu().clone() for key in MOMENTS}
    return found


@torch.no_grad()
def set_moments(module: nn.Module, optimizer: Any, values: Mapping[str, Any]) -> None:
    """Set the optimizer's state from whole moments."""
    parameters = dict(_trained(module))
    if any(map(_is_partition, parameters.values())):
        _set_zero_moments(parameters, optimizer, values)
        return
    for name, state in values.items():
        parameter = parameters[name]
        step = torch.tensor(state["step"])  # AdamW keeps it on the CPU
        optimizer.state[parameter] = {
            "step": step, **{key: _like(parameter, state[key]).detach().clone() for key in MOMENTS},
        }  # fmt: skip


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """The value on the parameter's device with the parameter's sharding."""
    value = value.to(parameter.device)
    if not hasattr(parameter, "device_mesh"):
        return value
    sharded: Any = parameter
    return distribute_tensor(value, sharded.device_mesh, sharded.placements)


def _is_partition(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def whole_on_cpu(parameter: nn.Parameter) -> bool:
    """Whether a parameter is in the CPU's memory, and no strategy has spread it over ranks."""
    return parameter.device.type == "cpu" and not hasattr(parameter, "device_mesh") and not _is_partition(parameter)


def _gathered(parameter: nn.Parameter, write: bool = False) -> Any:
    """Context in which a ZeRO-3 parameter is whole."""
    if not _is_partition(parameter):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if write else None)


def _zero_steps(optimizer: Any) -> float:
    """Number of steps of DeepSpeed's ZeRO-3 optimizer; 0 for any other."""
    flat = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    inner = optimizer.optimizer.state if flat else {}
    return float(inner[flat[0]]["step"]) if flat and flat[0] in inner else 0.0


def _set_zero_moments(parameters: Mapping[str, nn.Parameter], optimizer: Any, values: Mapping[str, Any]) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    steps = max((state["step"] for state in values.values()), default=0.0)
    if not steps:
        return
    for flat in optimizer.fp32_partitioned_groups_flat:
        moments = {key: torch.zeros_like(flat) for key in MOMENTS}
        optimizer.optimizer.state[flat] = {"step": torch.tensor(steps), **moments}
    for name, parameter in parameters.items():
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, values[name][key].to(parameter.device), key)
