"""What an adapter adds to each weight, computed in float32, some rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners import lora
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.adapter import read_adapter, with_tensors
from kimi_audio_ft.model import KimiAudioForCausalLM

_NAME, _PREFIX = "default", "base_model.model."


@dataclass(frozen=True)
class Update:
    """The change of one linear's weight ``[out, in]`` (arXiv 2106.09685; with magnitude, DoRA, 2402.09353).

    a: ``[r, in]``, b: ``[out, r]``, magnitude: ``[out]`` or None, all float32. scaling: PEFT's, from alpha and rank.
    """

    a: Tensor
    b: Tensor
    scaling: float
    magnitude: Tensor | None = None

    def merged(self, rows: Tensor, start: int) -> Tensor:
        """Rows ``start, start + 1, ...`` of the merged weight in float32, from the base's in any dtype.

        The operations and their order are those of PEFT's own merge in float32.
        """
        some = slice(start, start + len(rows))
        weight = rows.float() + (self.b[some] @ self.a) * self.scaling
        if self.magnitude is not None:
            factor = self.magnitude[some] / torch.linalg.norm(weight, dim=1)
            weight = factor[:, None] * weight
        return weight


def read_updates(model: KimiAudioForCausalLM, folder: Path) -> dict[str, Update]:
    """Updates of a saved adapter by the name of the weight they change.

    Args:
        model: the base, best on the meta device; PEFT puts the adapter on it, which settles targets, ranks and scales.

    Raises:
        DataError: the folder holds no adapter for this base, or one that changes more than weights of linears.
    """
    config, tensors = read_adapter(folder)
    adapted = with_tensors(model, config, tensors, folder)
    updates: dict[str, Update] = {}
    used = 0
    for path, module in adapted.named_modules():
        name = path.removeprefix(_PREFIX)
        if not isinstance(module, lora.LoraLayer):
            continue
        own = {key: value.float() for key, value in tensors.items() if key.startswith(f"{path}.")}
        update = _update_of(module, own)
        if update is None:
            remedy = "Merge it with PEFT's merge_and_unload"
            raise DataError(folder, f"changes {name} in a way that is not merged here (not plain LoRA or DoRA)", remedy)
        updates[f"{name}.weight"] = update
        used += len(own)
    if used != len(tensors):
        problem = "holds tensors besides those of LoRA, which are not merged here (modules_to_save, biases)"
        raise DataError(folder, problem, "Merge it with PEFT's merge_and_unload")
    return updates


def _update_of(module: lora.LoraLayer, tensors: dict[str, Tensor]) -> Update | None:
    """The update that a PEFT layer (for its scale and kind) makes of tensors; None for kinds not merged here."""
    if not isinstance(module, lora.Linear) or module.fan_in_fan_out or module.lora_bias[_NAME]:
        return None
    is_dora = isinstance(module.lora_variant.get(_NAME), DoraLinearVariant)
    if len(tensors) != (3 if is_dora else 2) or (_NAME in module.lora_variant) != is_dora:
        return None
    a, b, *magnitude = (tensors[name] for name in sorted(tensors))
    return Update(a, b, float(module.scaling[_NAME]), magnitude[0] if is_dora else None)
