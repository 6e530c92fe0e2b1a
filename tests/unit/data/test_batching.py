"""Which conversations make up each step, and padded batches."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, groupby, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from kimi_audio_ft.data.batching import BatchPlan, EpochPlan, EpochSteps, cheapest_cut, cut, validation_share
from kimi_audio_ft.data.dataset import Draw, Sample, make_batch
from kimi_audio_ft.manifest.conversation import Layout

rng = random.Random(11)
LENGTHS = [rng.randint(10, 200) for _ in range(203)]
SUPERVISED = [rng.randint(1, 20) for _ in LENGTHS]


def plan(**changes: Any) -> BatchPlan:
    defaults: dict[str, Any] = {
        "lengths": np.array(LENGTHS),
        "supervised": np.array(SUPERVISED),
        "batch_size": 6,
        "max_tokens": 700,
        "step_batches": 4,
        "bucket": True,
        "average": "sample",
        "seed": 3,
    }
    return BatchPlan(**defaults | changes)


def steps_of(epoch: EpochPlan, rank: int = 0, ranks: int = 1) -> list[list[Draw]]:
    return [epoch.step(step, rank, ranks) for step in range(len(epoch))]


def micro_batches(draws: Sequence[Draw]) -> list[list[Draw]]:
    return [list(batch) for _, batch in groupby(draws, lambda draw: draw.number)]


def batches_of(epoch: EpochPlan) -> list[list[Draw]]:
    return [batch for step in steps_of(epoch) for batch in micro_batches(step)]


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
        batches = batches_of(plan(bucket=bucket, batch_size=batch_size, max_tokens=max_tokens).epoch(epoch))
        assert Counter(d.index for batch in batches for d in batch) == Counter(range(len(LENGTHS)))
        assert {d.epoch for batch in batches for d in batch} == {epoch}
        assert [batch[0].number for batch in batches] == list(range(len(batches)))
        for batch in batches:
            padded = max(LENGTHS[d.index] for d in batch) * len(batch)
            assert 1 <= len(batch) <= batch_size and (padded <= max_tokens or len(batch) == 1)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "max_tokens", "bounds"),
    [
        ([5, 5, 5, 5], 3, 100, [0, 3, 4]),
        ([2, 2, 5, 2], 9, 10, [0, 2, 4]),
        ([3, 99, 3], 9, 10, [0, 1, 2, 3]),  # over the budget: alone
        ([10, 2, 2], 9, 12, [0, 1, 3]),  # a long one narrows no other batch
        ([4, 6, 4], 9, 12, [0, 2, 3]),
        ([], 9, 10, [0]),
    ],
)
def test_cutting(lengths: list[int], batch_size: int, max_tokens: int, bounds: list[int]) -> None:
    assert cut(np.array(lengths, dtype=int), batch_size, max_tokens).tolist() == bounds


def test_passes_are_cut_where_they_take_least_time() -> None:
    """Of all ways to cut; a pass costs 20 and no less than 60 positions would."""

    def seconds(positions: np.ndarray) -> np.ndarray:
        return np.maximum(60.0, positions) + 20.0

    rng, most = np.random.default_rng(1), 150
    for lengths in (np.sort(rng.integers(1, 100, rng.integers(1, 9))) for _ in range(30)):
        own = cheapest_cut(lengths, most, seconds)
        inner, count = range(1, len(lengths)), len(lengths)
        ways = [np.array([0, *some, count]) for number in range(count) for some in combinations(inner, number)]
        sizes = [(np.diff(bounds), np.diff(bounds) * lengths[bounds[1:] - 1]) for bounds in ways]
        allowed = [positions for items, positions in sizes if ((positions <= most) | (items == 1)).all()]
        assert seconds(np.diff(own) * lengths[own[1:] - 1]).sum() == min(seconds(one).sum() for one in allowed)
    assert cheapest_cut(np.array([5, 200, 300]), most, seconds).tolist() == [0, 1, 2, 3], "an item over it stays alone"
    assert cheapest_cut(np.array([30, 30, 30]), most, seconds).tolist() == [0, 3]


@pytest.mark.parametrize("ranks", [1, 3])
def test_sizes_are_those_of_every_step(ranks: int) -> None:
    """The last step has two micro-batches: the third rank only keeps step with the others."""
    short = plan(step_batches=3 * ranks, max_tokens=10**6, lengths=np.array(LENGTHS[: 6 * (3 * ranks * 3 + 2)]))
    epoch = short.epoch(0)
    for rank in range(ranks):
        steps = [[draw for draw in draws if draw.weight] or draws for draws in steps_of(epoch, rank, ranks)]
        padded = [len(draws) * max(LENGTHS[draw.index] for draw in draws) for draws in steps]
        assert epoch.sizes(rank, ranks).tolist() == padded and len(padded) == 4


def test_buckets_save_padding() -> None:
    assert padding(batches_of(plan(bucket=True).epoch(0))) < 0.5 * padding(batches_of(plan(bucket=False).epoch(0)))


def test_same_seed_same_plan_and_every_epoch_its_own_order() -> None:
    first = batches_of(plan().epoch(2))
    assert batches_of(plan().epoch(2)) == first
    others = [batches_of(plan().epoch(1)), batches_of(plan(seed=4).epoch(2))]
    assert all(indices(other) != indices(first) for other in others)
    # Not the same batches in another order: each epoch puts other conversations together.
    as_sets = {frozenset(batch) for batch in indices(first)}
    assert len(as_sets & {frozenset(batch) for batch in indices(others[0])}) < len(as_sets) / 2


def test_long_and_short_steps_are_mixed() -> None:
    steps = [micro_batches(step) for step in steps_of(plan().epoch(0))]
    means = [sum(LENGTHS[d.index] for b in step for d in b) / sum(map(len, step)) for step in steps]
    rising = sum(a < b for a, b in pairwise(means)) / (len(means) - 1)
    assert 0.2 < rising < 0.8


@pytest.mark.parametrize("average", ["sample", "token"])
@pytest.mark.parametrize("step_batches", [1, 5, 7])
def test_weights_of_a_step_make_a_mean(average: str, step_batches: int) -> None:
    """The weighted terms sum to one in every step, the short last one included, and are equal within it."""
    rules = plan(average=average, step_batches=step_batches)
    steps = steps_of(rules.epoch(1))
    sizes = [len(micro_batches(step)) for step in steps]
    assert len(steps) == len(rules.epoch(1)) and set(sizes[:-1]) == {step_batches}
    assert sizes[-1] < step_batches or step_batches == 1, "the last step should be a short one"
    for draws in steps:
        terms = [draw.weight * (1 if average == "sample" else SUPERVISED[draw.index]) for draw in draws]
        assert sum(terms) == pytest.approx(1.0) and len({draw.weight for draw in draws}) == 1


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("step_batches", [8, 24])
def test_ranks_share_every_step(ranks: int, step_batches: int) -> None:
    """Nothing lost, nothing twice, the same number of micro-batches for all, and the same as one rank computes."""
    epoch = plan(step_batches=step_batches).epoch(1)
    for step in range(len(epoch)):
        alone = epoch.step(step)
        shares = [micro_batches(epoch.step(step, rank, ranks)) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        counted = [draw for share in shares for batch in share for draw in batch if draw.weight]
        assert sorted(counted, key=lambda draw: draw.index) == sorted(alone, key=lambda draw: draw.index)
        fillers = [batch for share in shares for batch in share if not batch[0].weight]
        assert sum(map(len, shares)) == len(micro_batches(alone)) + len(fillers) and len(fillers) < ranks
        assert step + 1 == len(epoch) or step_batches % ranks or not fillers


def test_ranks_wait_little_for_each_other() -> None:
    """What 8 ranks compute at the same time is of similar size, whatever the step as a whole holds."""
    lengths = np.random.default_rng(2).integers(10, 400, 6000)
    epoch = plan(lengths=lengths, supervised=lengths, step_batches=64).epoch(0)
    waits = {"ours": 0, "as they come": 0}
    for draws in steps_of(epoch)[:-1]:
        sizes = [int(lengths[[d.index for d in batch]].max()) * len(batch) for batch in micro_batches(draws)]
        shuffled = random.Random(1).sample(sizes, len(sizes))
        for name, order in (("ours", sizes), ("as they come", shuffled)):
            turns = [order[start : start + 8] for start in range(0, 64, 8)]
            waits[name] += sum(8 * max(turn) - sum(turn) for turn in turns)
    assert waits["ours"] < 0.3 * waits["as they come"]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_evaluation_set_is_shared(ranks: int) -> None:
    shares = [validation_share(np.array(LENGTHS), 16, 2000, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    counted = [draw.index for share in shares for batch in share for draw in batch if draw.weight]
    assert sorted(counted) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("ranks", [1, 2])
def test_steps_leave_out_what_was_done(ranks: int) -> None:
    for rank in range(ranks):
        steps = EpochSteps(plan(), 1, rank, ranks)
        everything = list(steps)
        assert everything == steps_of(plan().epoch(1), rank, ranks) and len(steps) == len(everything)
        steps.skip = 5
        assert list(steps) == everything[5:] and len(steps) == len(everything)


@pytest.mark.slow
def test_a_million_conversations_are_planned_quickly() -> None:
    """Arrays, not objects: five epochs of this take seconds, and an epoch some 40 MB."""
    numbers = np.random.default_rng(0)
    lengths = numbers.integers(50, 400, 1_000_000)
    epoch = plan(lengths=lengths, supervised=lengths // 4, batch_size=8, max_tokens=8192, step_batches=64).epoch(0)
    held = sum(array.nbytes for array in (epoch.order, epoch.bounds, epoch.sequence))
    assert held < 20e6 and len(epoch) == -(-(len(epoch.bounds) - 1) // 64)


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


# Several manifests, of which an epoch takes some conversations oftener than others.

MIX = ((100, 250), (60, 20), (43, 43))


def takes(mixed: BatchPlan, epoch: int) -> Counter[int]:
    return Counter(draw.index for batch in batches_of(mixed.epoch(epoch)) for draw in batch)


@pytest.mark.parametrize("bucket", [True, False])
def test_an_epoch_takes_of_each_manifest_as_many_as_its_weight_says(bucket: bool) -> None:
    mixed = plan(mix=MIX, bucket=bucket)
    total: Counter[int] = Counter()
    for epoch in range(6):
        taken = takes(mixed, epoch)
        parts = [range(100), range(100, 160), range(160, 203)]
        assert [sum(taken[index] for index in part) for part in parts] == [250, 20, 43]
        assert {taken[index] for index in parts[0]} == {2, 3} and {taken[index] for index in parts[2]} == {1}
        total += taken
    assert {total[index] for index in parts[0]} == {15}, "2.5 times in each of six epochs, and all equally often"
    assert {total[index] for index in parts[1]} == {2}, "a third of them, then another third"


def test_a_mix_depends_on_the_seed_and_the_epoch_alone() -> None:
    one = indices(batches_of(plan(mix=MIX).epoch(3)))
    assert indices(batches_of(plan(mix=MIX).epoch(3))) == one
    assert indices(batches_of(plan(mix=MIX).epoch(4))) != one != indices(batches_of(plan(mix=MIX, seed=4).epoch(3)))
    assert takes(plan(mix=MIX), 3) != takes(plan(mix=MIX, seed=4), 3)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_a_mix(ranks: int) -> None:
    epoch = plan(mix=MIX).epoch(1)
    shared = Counter(
        (draw.index, draw.copy)
        for rank in range(ranks)
        for step in steps_of(epoch, rank, ranks)
        for draw in step
        if draw.weight
    )
    alone = Counter((draw.index, draw.copy) for step in steps_of(epoch) for draw in step)
    assert shared == alone and set(alone.values()) == {1}, "no copy is drawn twice"
    assert {copy for _, copy in alone} == {0, 1, 2}
