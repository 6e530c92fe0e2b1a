"""How close numbers are, in units in the last place of the largest of them: never in absolute terms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

UNIT = torch.finfo(torch.float32).eps
LOG_UNITS = 1000  # of spectrograms: logarithms of energies near zero, which are differences of large numbers


def assert_close(ours: Tensor, theirs: Tensor, units: float = 64, name: str = "") -> None:
    """No difference is larger than so many units in the last place of the largest magnitude of ``theirs``."""
    bound = units * UNIT * float(theirs.detach().abs().max()) if theirs.numel() else 0.0
    torch.testing.assert_close(ours, theirs, atol=bound, rtol=0, msg=lambda message: f"{name} {message}".lstrip())


def assert_losses_close(ours: Sequence[float], theirs: Sequence[float], units: float = 16) -> None:
    """The same number of losses, each within so many units in its last place."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert math.isclose(one, other, rel_tol=units * UNIT), f"{one!r} and {other!r}"
