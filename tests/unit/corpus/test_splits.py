from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_audio_ft.corpus.splits import EVAL, TEST, TRAIN, balance, split_by_group
from kimi_audio_ft.errors import ConfigError


def recordings(sizes: list[int]) -> list[str]:
    return [f"recording {index}" for index, size in enumerate(sizes) for _ in range(size)]


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=40),
    eval_ratio=st.floats(0.01, 0.45),
    test_ratio=st.floats(0.01, 0.45),
    seed=st.integers(0, 1000),
)
def test_no_group_crosses_and_no_split_is_empty(
    sizes: list[int], eval_ratio: float, test_ratio: float, seed: int
) -> None:
    groups = recordings(sizes)
    names = split_by_group(groups, eval_ratio, test_ratio, seed)
    assert {len({name for name, of in zip(names, groups, strict=True) if of == group}) for group in set(groups)} == {1}
    assert set(names) == {TRAIN, EVAL, TEST}


@settings(deadline=None, derandomize=True, max_examples=100)
@given(count=st.integers(20, 300), ratio=st.floats(0.05, 0.5), seed=st.integers(0, 100))
def test_with_single_segments_the_ratio_is_met_exactly(count: int, ratio: float, seed: int) -> None:
    sizes = Counter(split_by_group([str(index) for index in range(count)], ratio, 0.0, seed))
    assert abs(sizes[EVAL] - ratio * count) <= 0.5 + 1e-9
    assert sizes[TEST] == 0


def test_uneven_recordings_come_close_to_the_ratio() -> None:
    groups = recordings([40, 1, 25, 3, 3, 8, 2, 60, 5, 17, 9, 4, 12, 11])  # 200 segments
    for seed in range(30):
        sizes = Counter(split_by_group(groups, 0.1, 0.05, seed))
        assert abs(sizes[EVAL] - 20) <= 2 and abs(sizes[TEST] - 10) <= 2


def test_the_split_is_not_the_head_of_the_file() -> None:
    groups = [f"{index:04d}" for index in range(1000)]
    held_out = [index for index, name in enumerate(split_by_group(groups, 0.1, 0.0, 0)) if name == EVAL]
    assert len(held_out) == 100
    assert 20 < sum(index < 500 for index in held_out) < 80
    assert held_out != list(range(held_out[0], held_out[0] + 100))


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    groups = recordings([2, 3, 1, 4, 2, 5, 1, 2, 3, 4])
    first = split_by_group(groups, 0.2, 0.1, 1)
    assert split_by_group(groups, 0.2, 0.1, 1) == first
    assert split_by_group(groups[::-1], 0.2, 0.1, 1) == first[::-1]
    assert any(split_by_group(groups, 0.2, 0.1, seed) != first for seed in range(2, 6))


def test_zero_ratios_ask_for_no_split() -> None:
    assert split_by_group(["a", "a"], 0.0, 0.0, 0) == [TRAIN, TRAIN]


def test_a_split_that_would_be_empty_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"eval_ratio=0\.05: .* come from 1 recording.* 2 are needed\. Add .*=0"):
        split_by_group(["one"] * 50, 0.05, 0.0, 0)
    with pytest.raises(ConfigError, match=r"test_ratio=0\.1: .* come from 2 recording.* 3 are needed"):
        split_by_group(["one", "two"], 0.1, 0.1, 0)
    assert set(split_by_group(["one", "two"], 0.01, 0.0, 0)) == {EVAL, TRAIN}


VALUES = ["rare", *["often"] * 6, *["some"] * 3]


def test_downsampling_to_the_rarest() -> None:
    kept = balance(VALUES, seed=0)
    assert kept == sorted(set(kept))
    assert Counter(VALUES[index] for index in kept) == {"rare": 1, "often": 1, "some": 1}


def test_upsampling_keeps_all_and_repeats_evenly() -> None:
    kept = balance(VALUES, seed=0, mode="upsample")
    assert kept == sorted(kept) and set(kept) == set(range(len(VALUES)))
    assert Counter(VALUES[index] for index in kept) == {"rare": 6, "often": 6, "some": 6}
    assert set(Counter(index for index in kept if VALUES[index] == "some").values()) == {2}


def test_balancing_is_seeded() -> None:
    values = ["a"] * 20 + ["b"] * 5
    assert balance(values, seed=3) == balance(values, seed=3)
    assert len({tuple(balance(values, seed=seed)) for seed in range(5)}) > 1
