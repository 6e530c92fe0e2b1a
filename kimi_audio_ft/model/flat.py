"""A right-padded batch as its positions alone, for a CPU: without padding, and with a common prompt computed once.

Every conversation of a task begins with the same instruction, and attention is causal: behind it nothing differs until
the audio begins. What all rows begin with is therefore computed for the first row only, and read by all in attention.
Of the demo's batches that leaves 69 of 100 positions.

Shape suffixes: M positions, R rows of attention, S columns, N supervised positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """One adapter's rows of a batch.

    mask_BS, supervised_BS: bool, of positions that are no padding, and of those that predict a label. prompt: columns
    that all rows have in common, at the beginning. first: number of its first row in the embedding.
    """

    mask_BS: NDArray[np.bool_]
    supervised_BS: NDArray[np.bool_]
    prompt: int
    first: int = 0


@dataclass(frozen=True)
class Block:
    """Rows that share a prompt: the flat index of its first position, and the first row and the end of them."""

    start: int
    first: int
    end: int
    prompt: int


@dataclass(frozen=True)
class Flat:
    """Positions of a batch of R rows and S columns, those of an adapter together.

    embedded_M: index of each in the embedding's rows and columns. columns_M: its column. kept_M: its index among R * S.
    read_RS: the position that stands for each of R * S; any for padding. given_RS: the same, but M where R * S has it a
    second time or as padding. answers_M, answers_RS: supervised positions, by either index. counts: positions of each
    adapter. origins: rows and columns of each adapter's positions, in its own rows.
    """

    rows: int
    columns: int
    embedded_M: Tensor
    columns_M: Tensor
    kept_M: Tensor
    read_RS: Tensor
    given_RS: Tensor
    answers_M: Tensor
    answers_RS: Tensor
    counts: list[int]
    origins: list[tuple[Tensor, Tensor]]
    shared: list[Block]

    @classmethod
    def of(cls, adapters: Sequence[Rows]) -> Flat:
        """The positions of these rows, padded to the longest."""
        columns = max(rows.mask_BS.shape[1] for rows in adapters)
        parts, start, first = list[dict[str, Any]](), 0, 0
        for rows in adapters:
            parts.append(_positions(rows, columns, start, first))
            start, first = start + len(parts[-1]["columns_M"]), first + len(rows.mask_BS)
        joined = {
            name: torch.from_numpy(np.concatenate([part[name] for part in parts]))
            for name, value in parts[0].items()
            if name.endswith(("_M", "_RS"))
        }
        joined["given_RS"][joined["given_RS"] < 0] = start
        return cls(
            first,
            columns,
            **joined,
            counts=[len(part["columns_M"]) for part in parts],
            origins=[part["origin"] for part in parts],
            shared=[part["block"] for part in parts if part["block"].prompt],
        )

    def apart(self) -> Flat:
        """The same for an embedding that has the rows of every adapter after each other, where it was for all."""
        each = self.rows // len(self.counts) * self.columns
        offsets_M = (torch.arange(len(self.counts)) * each).repeat_interleave(torch.tensor(self.counts))
        return replace(self, embedded_M=self.embedded_M + offsets_M)

    def of_embedding(self, embedded_BSD: Tensor) -> Tensor:
        """``[M, 1, D]``: three dimensions, as a batch, of whose first adapters have blocks (``lora.pack``)."""
        return embedded_BSD.flatten(0, 1).index_select(0, self.embedded_M).unsqueeze(1)

    def in_rows(self, x_M: Tensor) -> Tensor:
        """``[M, ...]`` as ``[R, S, ...]``, for attention."""
        return _InRows.apply(x_M, self).view(self.rows, self.columns, *x_M.shape[1:])

    def kept(self, x_RSD: Tensor) -> Tensor:
        """``[R, S, D]`` as ``[M, 1, D]``."""
        return _Kept.apply(x_RSD.flatten(0, 1), self).unsqueeze(1)

    def answers(self, x_RSD: Tensor) -> Tensor:
        """``[N, D]``, the supervised positions of ``[R, S, D]``."""
        return x_RSD.flatten(0, 1).index_select(0, self.answers_RS)


def _positions(rows: Rows, columns: int, start: int, first: int) -> dict[str, Any]:
    """Fields of ``Flat`` for one adapter, whose positions begin at ``start`` and whose rows at ``first``."""
    kept_BS = rows.mask_BS.copy()
    kept_BS[1:, : rows.prompt] = False
    row_M, column_M = kept_BS.nonzero()
    own_M = start + np.arange(len(row_M))
    read_BS = np.full((len(kept_BS), columns), start)
    given_BS = np.full((len(kept_BS), columns), -1)
    read_BS[row_M, column_M] = given_BS[row_M, column_M] = own_M
    read_BS[1:, : rows.prompt] = read_BS[0, : rows.prompt]
    row_N, column_N = rows.supervised_BS.nonzero()
    return {
        "embedded_M": (rows.first + row_M) * columns + column_M,
        "columns_M": column_M,
        "kept_M": (first + row_M) * columns + column_M,
        "read_RS": read_BS.reshape(-1),
        "given_RS": given_BS.reshape(-1),
        "answers_M": read_BS[row_N, column_N],
        "answers_RS": (first + row_N) * columns + column_N,
        "origin": (torch.from_numpy(row_M), torch.from_numpy(column_M)),
        "block": Block(start, first, first + len(kept_BS), rows.prompt),
    }


class _InRows(Function):
    """Positions to rows; a prompt's gradient is the sum over its rows."""

    @staticmethod
    def forward(ctx: Any, x_M: Tensor, flat: Flat) -> Tensor:
        ctx.flat = flat
        return x_M.index_select(0, flat.read_RS)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [grad], flat = grads, ctx.flat
        grad_M = grad.index_select(0, flat.kept_M)
        rows = grad.view(flat.rows, flat.columns, *grad.shape[1:])
        for block in flat.shared:
            total = rows[block.first : block.end, : block.prompt].sum(0)
            grad_M[block.start : block.start + block.prompt] = total
        return grad_M, None


class _Kept(Function):
    """Rows to positions; what is not kept gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x_RS: Tensor, flat: Flat) -> Tensor:
        ctx.flat = flat
        return x_RS.index_select(0, flat.kept_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [grad] = grads
        return torch.cat([grad, grad.new_zeros(1, *grad.shape[1:])]).index_select(0, ctx.flat.given_RS), None
