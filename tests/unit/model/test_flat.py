"""A batch's positions without padding and with its prompt once: indices, and gradients as of plain indexing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kimi_audio_ft.model.flat import Flat, Rows


def rows(lengths: list[int], prompt: int, answers: int = 2, first: int = 0) -> Rows:
    """Right-padded rows, each with so many supervised positions at its end."""
    columns = np.arange(max(lengths))
    mask = columns < np.array(lengths)[:, None]
    return Rows(mask, mask & (columns >= np.array(lengths)[:, None] - answers), prompt, first)


@pytest.fixture
def flat() -> Flat:
    """Two adapters: three rows with a prompt of two positions, and two rows with none in common."""
    return Flat.of([rows([5, 3, 4], prompt=2), rows([3, 6], prompt=0, first=3)])


def test_neither_padding_nor_a_repeated_prompt_is_computed(flat: Flat) -> None:
    assert (flat.rows, flat.columns, flat.counts) == (5, 6, [2 + 3 + 1 + 2, 3 + 6])
    assert flat.columns_M.tolist() == [0, 1, 2, 3, 4, 2, 2, 3, *range(3), *range(6)]
    assert flat.embedded_M.tolist()[:6] == [0, 1, 2, 3, 4, 6 + 2]
    assert [place.tolist() for place in flat.origins[1]] == [[0] * 3 + [1] * 6, [*range(3), *range(6)]]


def test_rows_read_their_prompt_and_their_own_positions(flat: Flat) -> None:
    x_M = torch.arange(len(flat.columns_M), dtype=torch.float32)
    first, second, third, *others = flat.in_rows(x_M).tolist()
    assert (first[:5], second[:3], third[:4]) == ([0, 1, 2, 3, 4], [0, 1, 5], [0, 1, 6, 7])
    assert (others[0][:3], others[1]) == ([8, 9, 10], [11, 12, 13, 14, 15, 16])
    assert torch.equal(flat.kept(flat.in_rows(x_M.unsqueeze(-1))), x_M.view(-1, 1, 1))
    assert flat.answers(flat.in_rows(x_M.unsqueeze(-1))).flatten().tolist() == x_M[flat.answers_M].tolist()


def test_gradients_are_those_of_plain_indexing(flat: Flat) -> None:
    generator = torch.Generator().manual_seed(0)
    x_M = torch.randn(len(flat.columns_M), 2, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 6, 2, 3, generator=generator, dtype=torch.float64)
    weight.view(30, 2, 3)[torch.tensor(padding(flat))] = 0  # attention gives padding none
    ours, plain = (x_M.clone().requires_grad_() for _ in range(2))
    (flat.in_rows(ours) * weight).sum().backward()
    (plain[flat.read_RS].view(weight.shape) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-12, atol=0)

    y_RSD = torch.randn(5, 6, 3, generator=generator, dtype=torch.float64)
    given = torch.randn(len(flat.columns_M), 1, 3, generator=generator, dtype=torch.float64)
    ours, plain = (y_RSD.clone().requires_grad_() for _ in range(2))
    (flat.kept(ours) * given).sum().backward()
    (plain.flatten(0, 1)[flat.kept_M].unsqueeze(1) * given).sum().backward()
    assert torch.equal(ours.grad, plain.grad)


def padding(flat: Flat) -> list[int]:
    lengths = [5, 3, 4, 3, 6]
    return [row * flat.columns + column for row in range(5) for column in range(lengths[row], flat.columns)]


def test_an_embedding_may_repeat_the_rows_for_every_adapter() -> None:
    both = Flat.of([rows([3, 2], prompt=1), rows([3, 2], prompt=0)])
    embedded = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    apart = both.apart().of_embedding(embedded.repeat(2, 1, 1))
    assert torch.equal(both.of_embedding(embedded), apart) and apart.shape == (4 + 5, 1, 4)
