"""Products whose rows depend on their number are recognised."""

from __future__ import annotations

import pytest
import torch

from kimi_audio_ft.runtime.reproducible import rows_are_independent


def test_products_that_depend_on_the_number_of_rows_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a library that adds up in another order where there are few rows."""
    weights, linear = [torch.randn(24, 96), torch.ones(2, 2)], torch.nn.functional.linear

    def other_order(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return linear(x.flip(-1), weight.flip(-1)) if len(x) == 7 else linear(x, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", other_order)
    assert not rows_are_independent(weights)
    assert rows_are_independent(weights[1:]), "sums of two numbers have one order only"


def test_only_a_cpu_promises_anything() -> None:
    assert not rows_are_independent([torch.ones(2, 2, device="meta")])
