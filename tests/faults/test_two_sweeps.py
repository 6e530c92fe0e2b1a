"""Two sweeps over one store at the same time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.sweeps import SWEPT, Place, until
from tests.sameness import assert_same_adapters, assert_same_results


@pytest.mark.slow
def test_each_adapter_is_trained_once_though_one_is_killed(
    new_place: Callable[..., Place], undisturbed: Undisturbed
) -> None:
    """They start together; when the first adapters are there one is killed, and the other does its work too."""
    place = new_place()
    left, right = (place.start(*SWEPT, f"hydra.sweep.dir={name}") for name in ("left", "right"))
    until(lambda: place.products("adapter") or left.ended() is not None)
    complete = place.products("adapter")
    left.kill()
    done = right.wait()
    assert done.code == 0, done.said
    assert_same_results(place.trials("right"), undisturbed.trials)
    assert_same_adapters(place.store, undisturbed.place.store)
    assert {name: place.products("adapter")[name] for name in complete} == complete
    assert place.damaged() == place.set_aside() == []
