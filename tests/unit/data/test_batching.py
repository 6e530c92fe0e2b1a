"""Which conversations make up each step, and padded batches."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from kimi_audio_ft.data.batch import Sample, make_batch
from kimi_audio_ft.data.batching import BatchPlan, EpochBatches, cut
from kimi_audio_ft.data.dataset import Draw
from kimi_audio_ft.data.layout import Layout

rng = random.Random(11)
LENGTHS = [rng.randint(10, 200) for _ in range(203)]
SUPERVISED = [rng.randint(1, 20) for _ in LENGTHS]


def plan(**changes: Any) -> BatchPlan:
    defaults: dict[str, Any] = {
        "lengths": LENGTHS,
        "supervised": SUPERVISED,
        "batch_size": 6,
        "max_tokens": 700,
        "accumulate": 4,
        "bucket": True,
        "average": "sample",
        "seed": 3,
    }
    return BatchPlan(**defaults | changes)


def indices(batches: Sequence[Sequence[Draw]]) -> list[list[int]]:
    return [[draw.index for draw in batch] for batch in batches]


def padding(batches: Sequence[Sequence[Draw]]) -> int:
    """Padded positions of all batches."""
    return sum(max(LENGTHS[d.index] for d in batch) * len(batch) - sum(LENGTHS[d.index] for d in batch)
               for batch in batches)  # fmt: skip


@pytest.mark.parametrize("bucket", [True, False])
@pytest.mark.parametrize(("batch_size", "max_tokens"), [(1, 10), (6, 700), (64, 1000), (8, 10**6)])
def test_every_conversation_once_within_both_limits(bucket: bool, batch_size: int, max_tokens: int) -> None:
    for epoch in range(3):
        batches = plan(bucket=bucket, batch_size=batch_size, max_tokens=max_tokens).epoch(epoch)
        assert Counter(d.index for batch in batches for d in batch) == Counter(range(len(LENGTHS)))
        assert {d.epoch for batch in batches for d in batch} == {epoch}
        for batch in batches:
            padded = max(LENGTHS[d.index] for d in batch) * len(batch)
            assert 1 <= len(batch) <= batch_size and (padded <= max_tokens or len(batch) == 1)


def test_cutting() -> None:
    assert cut([0, 1, 2, 3], [5, 5, 5, 5], batch_size=3, max_tokens=100) == [[0, 1, 2], [3]]
    assert cut([0, 1, 2, 3], [2, 2, 5, 2], batch_size=9, max_tokens=10) == [[0, 1], [2, 3]]
    assert cut([0, 1, 2], [3, 99, 3], batch_size=9, max_tokens=10) == [
        [0],
        [1],
        [2],
    ]  # over the budget: alone
    assert cut([0, 1, 2], [10, 2, 2], batch_size=9, max_tokens=12) == [[0], [1, 2]]  # a long one narrows no other batch
    assert cut([2, 0, 1], [4, 6, 4], batch_size=9, max_tokens=12) == [[2, 0], [1]]
    assert cut([], [], batch_size=9, max_tokens=10) == []


def test_buckets_save_padding() -> None:
    assert padding(plan(bucket=True).epoch(0)) < 0.5 * padding(plan(bucket=False).epoch(0))


def test_same_seed_same_plan_and_every_epoch_its_own_order() -> None:
    first = plan().epoch(2)
    assert plan().epoch(2) == first
    others = [plan().epoch(1), plan(seed=4).epoch(2)]
    assert all(indices(other) != indices(first) for other in others)
    # Not the same batches in another order: each epoch puts other conversations together.
    as_sets = {frozenset(batch) for batch in indices(first)}
    assert len(as_sets & {frozenset(batch) for batch in indices(others[0])}) < len(as_sets) / 2


def test_long_and_short_batches_are_mixed() -> None:
    means = [sum(LENGTHS[d.index] for d in batch) / len(batch) for batch in plan().epoch(0)]
    rising = sum(a < b for a, b in pairwise(means)) / (len(means) - 1)
    assert 0.25 < rising < 0.75


@pytest.mark.parametrize("average", ["sample", "token"])
@pytest.mark.parametrize("accumulate", [1, 5, 7])
def test_weights_of_a_step_make_a_mean(average: str, accumulate: int) -> None:
    """The weighted terms sum to one in every step, the short last one included, and are equal within it."""
    rules = plan(average=average, accumulate=accumulate)
    batches = rules.epoch(1)
    steps = [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]
    assert len(steps) == rules.num_steps(1)
    assert len(batches) % accumulate or accumulate == 1, "the last step should be a short one"
    for step in steps:
        draws = [draw for batch in step for draw in batch]
        terms = [draw.weight * (1 if average == "sample" else SUPERVISED[draw.index]) for draw in draws]
        assert sum(terms) == pytest.approx(1.0) and len({draw.weight for draw in draws}) == 1


def test_epoch_batches_leave_out_what_was_done() -> None:
    batches = EpochBatches(plan(), epoch=1)
    everything = list(batches)
    assert everything == plan().epoch(1) and len(batches) == len(everything)
    batches.skip = 5
    assert list(batches) == everything[5:] and len(batches) == len(everything)


def sample(name: str, ids: list[int], **more: Any) -> Sample:
    """A sample whose text ids are ten times its audio ids and whose last two positions are supervised."""
    length = len(ids)
    loss = [False] * (length - 2) + [True, True]
    codes = [index == 1 for index in range(length)]
    return Sample(name, Layout(ids, [10 * i for i in ids], codes, [False] * length, loss), **more)


@pytest.mark.parametrize("left", [False, True])
def test_padding_and_shift(left: bool) -> None:
    batch = make_batch([sample("a", [1, 2, 3]), sample("b", [4, 5, 6, 7, 8])], pad_id=0, left=left)
    front, back = ([0, 0], []) if left else ([], [0, 0])
    inputs = batch["inputs"]
    assert inputs["input_ids"].tolist() == [[*front, 1, 2, 3, *back], [4, 5, 6, 7, 8]]
    assert inputs["text_input_ids"].tolist() == [[*front, 10, 20, 30, *back], [40, 50, 60, 70, 80]]
    assert inputs["attention_mask"].tolist() == [[*front, 1, 1, 1, *back], [1] * 5]
    assert inputs["is_continuous_mask"].nonzero().tolist() == [[0, 1 + len(front)], [1, 1]]
    # Labels stand one position earlier: position p predicts what is at p + 1.
    assert batch["text_loss_mask"].nonzero().tolist() == [[0, len(front)], [0, len(front) + 1], [1, 2], [1, 3]]
    assert batch["text_labels"][batch["text_loss_mask"]].tolist() == [20, 30, 70, 80]
    assert batch["ids"] == ["a", "b"]


def test_features_of_a_batch_stand_in_reading_order() -> None:
    rows = [torch.full((1, 2), float(value)) for value in range(3)]
    samples = [sample("a", [1, 2], features=rows[:2]), sample("b", [1, 2], features=[]), sample("c", [1, 2])]
    samples[2].features = rows[2:]
    features = make_batch(samples, pad_id=0)["inputs"]["audio_features"]
    assert [row[0, 0].item() for row in features] == [0, 1, 2]
    assert make_batch([sample("a", [1, 2])], pad_id=0)["inputs"]["audio_features"] is None


def test_waveforms_of_an_online_batch() -> None:
    samples = [sample("a", [1, 2], waveforms=[torch.ones(3)]), sample("b", [1, 2], waveforms=[torch.ones(4)] * 2)]
    inputs = make_batch(samples, pad_id=0, online=True)["inputs"]
    assert [len(waveform) for waveform in inputs["waveforms"]] == [3, 4, 4] and inputs["audio_features"] is None
    assert "waveforms" not in make_batch(samples, pad_id=0)["inputs"]
