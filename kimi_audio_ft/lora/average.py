"""The mean of adapters' updates as one adapter: their factors side by side, cut to a rank if asked.

With ``A = [A_1; A_2]`` and ``B = [s_1 B_1, s_2 B_2] / 2``, ``B A`` is exactly the mean of the updates
``s_i B_i A_i``; the product of a mean of the A and a mean of the B is not. Its rank is the sum of the ranks; the best
approximation of a lower rank keeps the largest singular values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor

from kimi_audio_ft.config.checks import require
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.adapter import FACTORS, PEFT_PREFIX, WEIGHTS, not_plain, read_adapter

_REMEDY = "Only plain LoRA can be averaged; combine mean=false leaves that out"


@dataclass(frozen=True)
class _Part:
    """One adapter. factors: by linear, A ``[r, in]``, and B ``[out, r]`` with the adapter's scale."""

    config: peft.LoraConfig
    factors: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def read(cls, folder: Path) -> _Part:
        config, tensors = read_adapter(folder)
        if odd := not_plain(config):
            raise DataError(folder, f"has {', '.join(odd)}: its update is no product of two factors", _REMEDY)
        down, up = FACTORS
        names = sorted(key.removesuffix(down) for key in tensors if key.endswith(down))
        if {name + end for name in names for end in FACTORS} != tensors.keys():
            raise DataError(folder, "has tensors besides the factors of LoRA (modules_to_save, biases)", _REMEDY)
        scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
        return cls(config, {name: (tensors[name + down].float(), scale * tensors[name + up].float()) for name in names})

    def beside(self, name: str, other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Factors of a linear; zeros in the shapes of another adapter's where this one leaves it alone."""
        if name in self.factors:
            return self.factors[name]
        down, up = other
        return down.new_zeros(self.config.r, down.shape[1]), up.new_zeros(up.shape[0], self.config.r)


@dataclass(frozen=True)
class MeanAdapter:
    """kept: the part of the update that the rank has room for, by squared norm: 1 unless singular values were cut."""

    config: peft.LoraConfig
    tensors: dict[str, Tensor]
    kept: float

    def save(self, folder: Path) -> None:
        """Write it in PEFT's format."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / WEIGHTS, metadata={"format": "pt"})
        self.config.save_pretrained(str(folder))


def mean_of_adapters(folders: Sequence[Path], rank: int | None = None) -> MeanAdapter:
    """The mean of saved adapters of one base.

    Args:
        rank: of the mean, lower than the sum of the ranks; None: that sum.

    Raises:
        DataError: a folder holds no plain LoRA. ConfigError: the rank is no lower than that sum.
    """
    parts = [_Part.read(folder) for folder in folders]
    whole = sum(part.config.r for part in parts)
    rule = f"must be lower than {whole}, the sum of the adapters' ranks"
    require(rank is None or rank < whole, "rank", rank, rule, "null keeps all ranks")
    tensors: dict[str, Tensor] = {}
    kept = norm = 0.0
    for name in sorted({name for part in parts for name in part.factors}):
        known = next(part.factors[name] for part in parts if name in part.factors)
        pairs = [part.beside(name, known) for part in parts]
        down = torch.cat([a for a, _ in pairs])
        up = torch.cat([b for _, b in pairs], dim=1) / len(parts)
        if rank is not None:
            down, up, squares = _truncated(down, up, rank)
            kept, norm = kept + float(squares[:rank].sum()), norm + float(squares.sum())
        for end, factor in zip(FACTORS, (down, up), strict=True):
            tensors[name + end] = factor.contiguous()
    return MeanAdapter(_config(parts, rank or whole), tensors, kept / norm if norm else 1.0)


def _truncated(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best factors of ``up @ down`` of a rank, and the squares of all its singular values.

    In float64, and by QR of the factors: the product itself has millions of numbers, its core a few thousand.
    """
    q_up, r_up = torch.linalg.qr(up.double())
    q_down, r_down = torch.linalg.qr(down.double().T)
    u, values, v = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    root = values[:rank].sqrt()
    new_up, new_down = q_up @ (u[:, :rank] * root), (root[:, None] * v[:rank]) @ q_down.T
    short = rank - len(root)  # of a linear that is narrower than the rank
    new_up = torch.nn.functional.pad(new_up, (0, short))
    new_down = torch.nn.functional.pad(new_down, (0, 0, 0, short))
    return new_down.to(down.dtype), new_up.to(up.dtype), values.square()


def _config(parts: Sequence[_Part], rank: int) -> peft.LoraConfig:
    """With the scale 1; the adapters' own targets where they agree, the linears by name where they do not."""
    first = parts[0].config
    alike = all(_targets(part) == _targets(parts[0]) for part in parts)
    names = sorted({name.removeprefix(PEFT_PREFIX) for part in parts for name in part.factors})
    return peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=first.target_modules if alike else names,
        exclude_modules=first.exclude_modules if alike else None,
        bias="none",
        inference_mode=True,
        base_model_name_or_path=first.base_model_name_or_path,
    )


def _targets(part: _Part) -> Any:
    """What it targets and excludes: expressions as they are, names in any order."""
    found = (part.config.target_modules, part.config.exclude_modules)
    return [one if one is None or isinstance(one, str) else sorted(one) for one in found]
