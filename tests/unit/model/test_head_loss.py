"""Losses of a head in chunks: equal to those of all logits at once, and without them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kimi_audio_ft.cost.counted import Counter
from kimi_audio_ft.model.head_loss import chunked_losses
from kimi_audio_ft.training.module import token_losses

N, D, V = 50, 16, 3000
Case = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def case(request: pytest.FixtureRequest) -> Case:
    """Hidden states, head, labels, and weights of the losses."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, D, generator=generator).to(request.param) for rows in (N, V))
    return hidden, weight, torch.randint(0, V, (N,), generator=generator), torch.rand(N, generator=generator)


def computed(compute: Callable[[Tensor], Tensor], case: Case) -> tuple[Tensor, Tensor, float]:
    """Losses, their gradient, and the bytes that were alive at once."""
    hidden = case[0].clone().requires_grad_()
    with Counter() as counter:
        losses = compute(hidden)
        (losses * case[3]).sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == hidden.dtype
    return losses.detach(), hidden.grad, counter.count.peak


@pytest.mark.parametrize("chunk", [7, 25, 512])
def test_chunks_equal_all_at_once(case: Case, chunk: int) -> None:
    _, weight, labels, _ = case
    whole = computed(lambda hidden: token_losses(hidden @ weight.t(), labels), case)
    ours = computed(lambda hidden: chunked_losses(hidden, weight, labels, chunk), case)
    torch.testing.assert_close(ours[0], whole[0], rtol=1e-5, atol=1e-5)
    near = 1e-5 if weight.dtype == torch.float32 else 0.02
    assert float((ours[1] - whole[1]).norm()) < near * float(whole[1].norm())
    with torch.no_grad():
        assert torch.equal(chunked_losses(case[0], weight, labels, chunk), ours[0])


def test_logits_of_all_never_live_at_once(case: Case) -> None:
    """Without chunks bytes grow with the positions; in chunks with those of one."""
    _, weight, labels, _ = case
    logits = N * V * 4
    assert computed(lambda hidden: token_losses(hidden @ weight.t(), labels), case)[2] > 2 * logits
    assert computed(lambda hidden: chunked_losses(hidden, weight, labels, 5), case)[2] < 0.4 * logits
