"""Whether this machine's matrix products allow a packed adapter to equal the same one trained alone bit for bit.

A pack multiplies the rows of several adapters at once. It is exact where a row of a product does not depend on the
number of rows, which few libraries promise. Measured with PyTorch 2.14 and its MKL 2024.2, on 4 to 256 rows:

    float32, Intel with AVX2 or AVX-512   only in MKL's strict mode, which ``kimi_audio_ft/__init__.py`` asks for
    float32, AMD                          in either mode (EPYC of family 25 with AVX-512)
    float32, SSE only                     in neither mode
    bfloat16 (oneDNN)                     for matrices as small as the embedded model's

On AMD a product of three rows or less adds up in another order, in either mode. Only heads and the last layer see so
few rows: ``lora.pack`` computes these for each adapter separately, and ``lora.update`` adds to them as a pack does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Numbers of rows that kernels for blocks of 4, 8, 16 or 32 rows divide in different ways; 256 together.
_PARTS = (4, 5, 7, 12, 17, 31, 48, 64, 68)
# Numbers in a sum that several threads share (at::internal::GRAIN_SIZE).
_CUT_FROM = 32_768


def rows_are_independent(weights: Iterable[Tensor]) -> bool:
    """Whether every row of products with these weights is the same, bit for bit, however many rows there are.

    Tries one product, and the one that computes its gradient, for every shape and number format. A GPU's answer is no:
    its libraries choose kernels by the number of rows.

    Args:
        weights: of linear layers, (out, in).
    """
    kinds = {(weight.shape, weight.dtype): weight.detach() for weight in weights}
    return all(
        weight.device.type == "cpu" and _has_independent_rows(weight) and _has_independent_rows(weight.T)
        for weight in kinds.values()
    )


def threads_change_nothing(trained: Iterable[Tensor], frozen: Iterable[Tensor]) -> bool:
    """Whether a training gives the same adapter, bit for bit, with any number of CPU threads.

    Args:
        trained: its parameters, whose gradients' norm is a sum that PyTorch cuts into a part for every thread where
            they are large. frozen: weights of linear layers, (out, in).
    """
    return all(value.numel() < _CUT_FROM and value.dtype == torch.float32 for value in trained) and (
        rows_are_independent(frozen)
    )


def _has_independent_rows(weight_OI: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    x_NI = torch.randn(sum(_PARTS), weight_OI.shape[1], generator=generator).to(weight_OI.dtype)
    parts = [torch.nn.functional.linear(part, weight_OI) for part in x_NI.split(_PARTS)]
    return torch.equal(torch.cat(parts), torch.nn.functional.linear(x_NI, weight_OI))
