"""Time and memory of steps on a pretended machine whose figures are round."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kimi_audio_ft.config.launcher import MACHINES as NAMES
from kimi_audio_ft.cost.counted import Count, Growing
from kimi_audio_ft.cost.machines import MACHINES, Machine, card
from kimi_audio_ft.cost.speed import PassTime, decoding_seconds, step_time

# A kernel takes a millisecond, a position 1,000 operations and 100 bytes; there is room for 100 positions.
GPU = Machine("a", flops=1e5, bandwidth=1e5, kernel_seconds=1e-3, memory=1e10)


def counts(peak: float, flops: float = 1000) -> Any:
    """Of a step of 100 kernels; a position is alive in so many bytes."""
    position = Growing(Count(kernels=100), Count(0, flops, 0, 100, peak))
    row = Growing(Count(kernels=50), Count(0, 100, 0, 0, 0))
    return SimpleNamespace(position=position, answer=Growing(Count(), Count()), row=row, base_bytes=0, trained=0)


def test_a_gpu_waits_for_the_host_or_the_host_for_it() -> None:
    few, many = Count(kernels=100, flops=100), Count(kernels=100, flops=1e5, other_bytes=1e5)
    assert GPU.seconds(few) == pytest.approx(0.1) and GPU.seconds(many) == pytest.approx(2.0)
    cpu = Machine("b", 1e5, 1e5, 1e-3, 1e10, waits=True)
    assert cpu.seconds(many) == pytest.approx(2.1)
    assert set(MACHINES) == set(NAMES)


def test_steps_are_cut_to_the_memory_and_recomputed_where_that_is_faster() -> None:
    room = 0.9 * GPU.memory - 1e9  # bytes that are left for positions
    time = step_time(counts(room / 100), None, GPU, adapters=3, positions=70, answers=10)
    assert time is not None and (time.passes, time.recomputed) == (3, False)
    assert time.seconds == pytest.approx(210 * (1000 / 1e5 + 100 / 1e5)) and time.peak == pytest.approx(0.7 * room)
    again = counts(room / 1000, flops=1500)
    assert step_time(counts(room / 100), again, GPU, adapters=3, positions=70, answers=10) == time
    other = step_time(counts(room / 5), again, GPU, adapters=3, positions=70, answers=10)  # 42 times the kernels
    assert other is not None and (other.passes, other.recomputed) == (1, True)
    assert step_time(counts(2 * room), None, GPU, 1, 70, 10) is None


def test_decoding_is_a_prompt_and_as_many_steps_as_the_longest_answer_has_tokens() -> None:
    prompt = (8 * 50 * (1000 / 1e5 + 100 / 1e5)) / 3
    assert decoding_seconds(counts(1), GPU, 8, 16, 50, 20) == pytest.approx(prompt + 20 * 0.05)


def test_a_pass_takes_what_its_host_or_its_device_does() -> None:
    """Told for many sizes at once; three adapters have three times the positions."""
    own, sizes = counts(1), [1, 50, 60, 1000]
    times = PassTime.of(own, GPU, adapters=3)(np.array(sizes))
    assert times == pytest.approx([GPU.seconds(own.position.at(3 * size)) for size in sizes])
    assert times[0] == pytest.approx(0.1) and times[-1] == pytest.approx(33.0)


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA RTX A1000", "h100"),
        ("NVIDIA GeForce RTX 4090 D", "4090"),
        ("Quadro P400", "h100"),
        ("RTX 3080 Laptop GPU", "h100"),
    ],
)
def test_a_card_is_known_by_its_name_or_counts_as_the_fastest(name: str, machine: str) -> None:
    assert card(name) is MACHINES[machine]
