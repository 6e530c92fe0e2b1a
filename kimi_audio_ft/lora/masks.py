"""Dropout's masks by place, for a GPU: a number for every entry, made of seed, sample, position, layer and column.

A generator's numbers depend on how many are drawn at once, and a CPU's differ from a GPU's. These are integers that are
the same on every device, for every sample alone or among others, so that an adapter does not depend on how the samples
of a step are put together into passes. Three operations make a mask: a product of two keys, compared with a bound.

Shape suffixes: R rows, S positions, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Constants of splitmix64 (Steele, Lea and Flood 2014), as PyTorch's signed integers.
_GAMMA, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def place_keys(seed: int, samples_R: Tensor, positions: int) -> Tensor:
    """Keys ``[R, S]`` (int32) of the positions of some samples, each known by a number of its own (int64)."""
    rows_R1 = _mixed(samples_R * _GAMMA + seed).unsqueeze(1)
    return _upper_half(rows_R1 + torch.arange(positions, device=samples_R.device) * _GAMMA)


def column_keys(width: int, device: torch.device) -> Tensor:
    """Keys ``[W]`` of the columns of an input, odd, so that products with any other keys are spread evenly."""
    return _upper_half(torch.arange(1, width + 1, device=device) * _GAMMA) | 1


def kept(places: Tensor, columns_W: Tensor, layer: int, p: float) -> Tensor:
    """The mask ``[..., W]`` of places ``[...]`` in a layer, whose key has 32 bits: false with probability ``p``."""
    return (places ^ layer).unsqueeze(-1) * columns_W >= round(p * 2**32) - 2**31


def _mixed(keys: Tensor) -> Tensor:
    keys = (keys ^ (keys >> 30)) * _FIRST
    keys = (keys ^ (keys >> 27)) * _SECOND
    return keys ^ (keys >> 31)


def _upper_half(keys: Tensor) -> Tensor:
    return (_mixed(keys) >> 32).to(torch.int32)
